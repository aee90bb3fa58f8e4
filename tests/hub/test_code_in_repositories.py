"""Repositories that carry code: they restore without the package, and with it their code is not run."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.hub.publish import prepare, send

from ..conftest import PROJECT_ROOT
from .conftest import CODE, FILES, build, same

# --- without the package ---

WITHOUT_PACKAGE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "daa_diffusers":
            raise ImportError("no daa_diffusers here")
sys.meta_path.insert(0, Absent())
import numpy as np, torch
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained(sys.argv[1])
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise SystemExit("foreign code ran without being asked for")
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
photos = np.load(sys.argv[2])
np.savez(sys.argv[3], **{name: pipe(photo, output_type="np").images for name, photo in photos.items()})
assert not any(name.split(".")[0] == "daa_diffusers" for name in sys.modules)
"""


def restore_without_package(source: str, photos: dict, folder: Path, **environment) -> dict:
    np.savez(folder / "photos.npz", **photos)
    (folder / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, source, str(folder / "photos.npz"), str(folder / "restored.npz")],
        cwd=folder / "elsewhere",
        env={
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_TOKEN")},
            "HF_MODULES_CACHE": str(folder / "modules"),
            "HF_HOME": str(folder / "home"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "restored.npz"))


@pytest.mark.slow
def test_a_pushed_repository_restores_the_same_without_the_package(writable_hub, tmp_path):
    draws = np.random.default_rng(0)
    photos = {
        "color": draws.integers(0, 256, (33, 21, 3), dtype=np.uint8),
        "alpha": draws.integers(0, 256, (9, 8, 4), dtype=np.uint8),
        "deep": draws.integers(0, 65536, (16, 5, 3), dtype=np.uint16),
        "gray": draws.random((7, 7), dtype=np.float32),
    }
    pipeline = build()
    pipeline.push_to_hub("org/mine")
    endpoint = {
        "HF_ENDPOINT": writable_hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    restored = restore_without_package("org/mine", photos, tmp_path, **endpoint)
    fetched = [request for request in writable_hub.requests if request.endswith(".py")]
    assert {request.rpartition("/")[2] for request in fetched} >= {"pipeline.py", "image_processor.py"}
    for name, photo in photos.items():
        expected = pipeline(photo, output_type="np").images
        assert restored[name].dtype == expected.dtype
        np.testing.assert_allclose(restored[name].astype(float), expected.astype(float), atol=1e-6, err_msg=name)


def test_a_folder_with_code_runs_none_of_it_where_the_package_is(writable_hub, tmp_path):
    build(unet=False).push_to_hub("org/mine")
    folder = writable_hub.revisions["org/mine"]["main"]
    for file in folder.rglob("*.py"):
        file.write_text(f"raise SystemExit('foreign code ran: {file.name}')")
    assert same(DAARestorationPipeline.from_pretrained(folder), build(unet=False))
    assert same(DAARestorationPipeline.from_pretrained(folder, trust_remote_code=True), build(unet=False))
    assert same(DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache"), build(unet=False))


def test_a_repository_is_pushed_again_from_where_it_was_downloaded(writable_hub, tmp_path):
    build(unet=False).push_to_hub("org/mine", license="mit")
    loaded = DAARestorationPipeline.from_pretrained("org/mine", cache_dir=tmp_path / "cache")
    loaded.push_to_hub("org/fork")
    assert set(writable_hub.commits[1]["files"]) == FILES | CODE
    folder = loaded.download("org/mine", cache_dir=tmp_path / "cache")
    send(prepare(folder, "org/third"))
    assert set(writable_hub.commits[2]["files"]) == FILES | CODE


class Elsewhere(RestorationUNet):
    """A restorer whose class only this test has."""


def test_a_restorer_of_another_class_goes_without_code_and_its_card_does_not_promise_any(tmp_path, caplog):
    DAARestorationPipeline(Elsewhere(width=4, depth=2)).save_pretrained(tmp_path / "mine")
    upload = prepare(tmp_path / "mine", "org/mine")
    assert set(upload.files) == FILES and "trust_remote_code" not in upload.card
    assert "loading it requires that module" in caplog.text
    assert f"{sum(p.numel() for p in Elsewhere(width=4, depth=2).parameters())} parameters" in upload.card


def test_the_repositorys_code_imports_what_everybody_with_diffusers_has():
    from daa_diffusers.hub.repository import INLINED, LOADER_FILE, PIPELINE_CODE, PLAIN_IMPORTS, top_level_imports

    for name, source in PIPELINE_CODE.items():
        imported = top_level_imports(PROJECT_ROOT / "daa_diffusers" / source)
        relative = {f"{module.removeprefix('.')}.py" for module in imported - set(INLINED) if module.startswith(".")}
        # diffusers loads what the pipeline's own file imports, and nothing that this imports in turn
        assert relative <= (set(PIPELINE_CODE) if name == LOADER_FILE else set()), source
        assert {name for name in imported if not name.startswith(".")} <= PLAIN_IMPORTS, source
