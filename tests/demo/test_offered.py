"""Which checkpoints the page offers, which is chosen at first, and what it says of each."""

import inspect
import json
import shutil

import numpy as np
import pytest
import skimage.data
from PIL import Image

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.checkpoints import DEFAULTS, STARTS, bundled_names, bundled_path
from daa_diffusers.checkpoints.tasks import TASKS
from daa_diffusers.cli import bulk, restore
from daa_diffusers.demo.offered import Offered
from daa_diffusers.demo.photo_tab import Examples
from daa_diffusers.hub.record_files import task_of
from daa_diffusers.sources import demo_photos
from daa_diffusers.training.config.presets import PRESETS


def test_defaults_are_named_and_are_those_of_the_commands():
    for command in (restore.restore, bulk.bulk):
        assert Offered().default == inspect.signature(command).parameters["checkpoint"].default == "daa-denoise"
    assert Offered().start == PRESETS[TASKS["denoise"].preset]["init_from"] == "daa-denoise"
    assert Offered(["mine"]).default == Offered(["mine"]).start == "mine"


@pytest.mark.parametrize("names", [DEFAULTS, STARTS], ids=["restoring", "adapting"])
def test_each_task_has_a_default_that_is_for_it(names):
    assert set(names) == {"denoise", "derain", "deblur"}
    for task, name in names.items():
        assert task_of(json.loads((bundled_path(name) / "training.json").read_text())) == task


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_examples_are_of_the_task_and_its_default_restores_them(task, tmp_path):
    files = Examples(tmp_path).files(task)
    assert files == Examples(tmp_path).files(task) and len(Examples(tmp_path).samples(task)) == len(files) == 3
    pipeline = DAARestorationPipeline.from_pretrained(DEFAULTS[task.name])
    pipeline.set_progress_bar_config(disable=True)
    for name, file in zip(demo_photos.EXAMPLES, files, strict=True):
        degraded = np.asarray(Image.open(file))[:256, :256]
        restored = np.asarray(pipeline(Image.fromarray(degraded)).images[0])
        errors = [
            np.square(photo.astype(float) - getattr(skimage.data, name)()[:256, :256]).mean()
            for photo in (degraded, restored)
        ]
        assert errors[1] < errors[0], name


def test_the_task_of_a_checkpoint_that_is_not_offered_is_not_looked_for(tmp_path):
    assert Offered().task("daa-derain").name == "derain"
    assert Offered().task(str(bundled_path("daa-derain"))).name == "denoise"


def test_the_default_is_offered_first_whatever_it_is_called():
    names = Offered().names()
    assert names[0] == "daa-denoise" and sorted(names) == list(bundled_names())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("daa-denoise", "Removes the noise of cameras. It does not remove blur or rain. Trained on synthetic"),
        ("daa-denoise-research", "Removes the noise of cameras. It does not remove blur or rain. Adapted to"),
        ("daa-derain", "Removes rain streaks."),
        ("daa-deblur", "Removes the blur of a moving camera."),
        ("somebody/theirs", "A folder or Hub id"),
        ("/etc", "A folder or Hub id"),
        ("", ""),
        (None, ""),
    ],
)
def test_what_a_checkpoint_is_for_is_said(name, said):
    assert Offered().purpose(name).startswith(said)


def test_of_one_that_was_given_its_own_files_say_it(checkpoint, tmp_path):
    assert Offered([checkpoint]).purpose(checkpoint) == "Its files do not state its task."
    shutil.copytree(checkpoint, tmp_path / "rain")
    (tmp_path / "rain" / "training.json").write_text('{"task": "derain"}')
    assert Offered([str(tmp_path / "rain")]).purpose(str(tmp_path / "rain")) == TASKS["derain"].description
    assert Offered(["some/thing"]).purpose("some/thing").startswith("From the Hub")
    (tmp_path / "rain" / "training.json").write_text("{")
    assert "cannot be loaded" in Offered([str(tmp_path / "rain")]).purpose(str(tmp_path / "rain"))


def test_adapted_checkpoints_are_offered_newest_first(tmp_path, checkpoint):
    for name in ("2026-01-01_00-00-00/pipeline", "2026-02-01_00-00-00/stopped-at-7"):
        shutil.copytree(checkpoint, tmp_path / "runs" / name)
    offered = Offered(runs=tmp_path / "runs")
    assert [label for label, _ in offered.choices()][-2:] == [
        "adapted 2026-02-01_00-00-00 (stopped at 7)", "adapted 2026-01-01_00-00-00",
    ]  # fmt: skip
    assert offered.default == "daa-denoise"
    (tmp_path / "runs/2026-01-01_00-00-00/run.json").write_text('{"held_to_start": {"kept_step": 0}}')
    assert len(offered.choices()) == len(Offered().choices()) + 1  # a run that learned nothing: its start stays
