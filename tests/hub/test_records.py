"""What belongs to weights goes with them through every way of saving: task, license, training, numbers, card."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from daa_diffusers import (
    DAARestorationPipeline,
    FastRestorationUNet,
    ForeignRestorer,
    RestorationUNet,
)
from daa_diffusers.adapters import AdapterConfig, fingerprint, save_adapter, updates_for
from daa_diffusers.checkpoints import bundled_names, bundled_path
from daa_diffusers.hub.description import describe
from daa_diffusers.hub.licenses import RESEARCH, card_license, license_named
from daa_diffusers.hub.publish import prepare
from daa_diffusers.hub.record_files import WeightsRecord
from daa_diffusers.hub.records import keep_record, keep_run_record, record_of, stated_license

from .conftest import CARD, EVALUATION, TRAINING, check_folder

WAYS = {
    "the pipeline": lambda pipe, out: pipe.save_pretrained(out),
    "the restorer": lambda pipe, out: pipe.restorer.save_pretrained(out),
    "in float16": lambda pipe, out: pipe.to(torch.float16).save_pretrained(out),
    "as a variant": lambda pipe, out: pipe.save_pretrained(out, variant="fp16"),
    "in another pipeline": lambda pipe, out: DAARestorationPipeline(pipe.restorer).save_pretrained(out),
    "compiled": lambda pipe, out: DAARestorationPipeline(torch.compile(pipe.restorer)).save_pretrained(out),
    "a copy": lambda pipe, out: DAARestorationPipeline(copy.deepcopy(pipe.restorer)).save_pretrained(out),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_saving_keeps_the_record(pipe, tmp_path, way):
    assert pipe.task == "derain"
    WAYS[way](pipe, tmp_path / "out")
    check_folder(tmp_path / "out")
    again = DAARestorationPipeline.from_pretrained(tmp_path / "out", **({"variant": "fp16"} if "var" in way else {}))
    assert again.task == "derain" and record_of(again.restorer).evaluation["sets"] == EVALUATION["sets"]


def test_a_restorer_loaded_by_its_own_class_keeps_the_record(made, tmp_path):
    restorer = RestorationUNet.from_pretrained(made, subfolder="restorer")
    restorer.save_pretrained(tmp_path / "alone")
    check_folder(tmp_path / "alone")
    RestorationUNet.from_pretrained(tmp_path / "alone").save_pretrained(tmp_path / "again")
    check_folder(tmp_path / "again")


def test_the_restorer_for_cpus_keeps_the_record(tmp_path):
    FastRestorationUNet(widths=(8,), blocks=(1,), license="cc-by-nc-4.0", task="derain").save_pretrained(tmp_path / "a")
    pipe = DAARestorationPipeline.from_pretrained(tmp_path / "a")
    pipe.save_pretrained(tmp_path / "b")
    found = describe(tmp_path / "b")
    assert (pipe.task, found.task, found.license.key) == ("derain", "derain", "cc-by-nc-4.0")


def test_saving_in_place_keeps_the_record(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "mine")
    for _ in range(2):
        DAARestorationPipeline.from_pretrained(folder).save_pretrained(folder)
        check_folder(folder)


class Another(ModelMixin, ConfigMixin):
    """A restorer of somebody who knows nothing of records."""

    @register_to_config
    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return self.conv(x)


def test_a_restorer_of_another_make_keeps_the_record_in_a_pipeline(tmp_path):
    DAARestorationPipeline(Another()).save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text(json.dumps(TRAINING))
    pipe = DAARestorationPipeline.from_pretrained(tmp_path / "mine")
    pipe.save_pretrained(tmp_path / "out")
    found = describe(tmp_path / "out")
    assert (pipe.task, found.task, found.license.key) == ("derain", "derain", RESEARCH.name)


class Foreign(nn.Module):
    """A network of another library."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def test_a_foreign_network_keeps_the_record(tmp_path):
    restorer = ForeignRestorer.wrap(Foreign(), arguments={})
    restorer.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text(json.dumps(TRAINING))
    pipe = DAARestorationPipeline.from_pretrained(tmp_path / "mine", trust_remote_code=True)
    pipe.save_pretrained(tmp_path / "out")
    assert (pipe.task, describe(tmp_path / "out").license.key) == ("derain", RESEARCH.name)


def test_a_saved_bundled_checkpoint_is_the_same_checkpoint(tmp_path):
    DAARestorationPipeline.from_pretrained("daa-derain").save_pretrained(tmp_path / "copy")  # in float32
    bundled, found = describe(bundled_path("daa-derain")), describe(tmp_path / "copy")
    assert (found.task, found.license, found.training) == ("derain", bundled.license, bundled.training)
    assert found.evaluation == bundled.evaluation and found.evaluation["sets"]
    pipe = DAARestorationPipeline.from_pretrained(tmp_path / "copy")
    (verdict,) = pipe([np.zeros((64, 64, 3), np.uint8)], output_type="np", guard=True).guard
    assert pipe.task == "derain" and verdict.reason == "the change is like rain"  # not judged as noise


LICENSES = {
    **dict.fromkeys(("daa-denoise", "daa-derain", "daa-deblur"), "cc-by-4.0"),
    "daa-denoise-research": RESEARCH.name,
}


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_config_states_task_and_license(name):
    config = describe(bundled_path(name)).restorer.config
    assert config["task"] == name.split("-")[1] and config["license"] == LICENSES[name]


def test_a_card_states_a_license_by_its_metadata(tmp_path):
    assert card_license(tmp_path / "README.md").key is None
    for card, key in (
        ("---\nlicense: mit\n---\n# Mine", "mit"),
        ("---\nlicense: other\nlicense_name: my-nc-license\n---\n", "my-nc-license"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\n- a\n---\n", None),
        ("---\n{\n---\n", None),
        ("# Mine\nlicense: mit", None),
    ):
        (tmp_path / "README.md").write_text(card)
        assert card_license(tmp_path / "README.md").key == key


# --- weights that have changed ---


def test_scores_without_a_fingerprint_are_bound_to_the_weights_they_are_next_to(made, tmp_path, caplog):
    with caplog.at_level("INFO"):
        pipe = DAARestorationPipeline.from_pretrained(made)
    assert "evaluation.json has no fingerprint" in caplog.text
    pipe.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert saved == {**EVALUATION, "weights": fingerprint(pipe.restorer.state_dict())}


def test_changed_weights_keep_the_license_but_no_number_and_no_card(pipe, tmp_path, caplog):
    with torch.no_grad():
        pipe.restorer.conv_out.bias += 1
    pipe.save_pretrained(tmp_path / "out")
    assert "the weights may have changed after their evaluation" in caplog.text
    found = describe(tmp_path / "out")
    assert found.license.key == RESEARCH.name and found.task == "derain"
    assert not (tmp_path / "out" / "evaluation.json").exists() and not (tmp_path / "out" / "README.md").exists()


def test_a_license_in_words_is_inherited_by_a_training_run():
    start = FastRestorationUNet(widths=(8,), blocks=(1,))
    keep_record(start, WeightsRecord({"license": "Ask Jane Doe before you sell it."}))
    keep_run_record(start, {})
    assert stated_license(start).text == "Ask Jane Doe before you sell it."


def test_weights_saved_over_others_inherit_none_of_their_claims(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "out")
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(tmp_path / "out")
    found = describe(tmp_path / "out")
    assert (found.task, found.license.key, found.training, found.evaluation) == (None, None, {}, {})
    assert (tmp_path / "out" / "README.md").read_text() == CARD  # written by a person: left alone


def test_numbers_of_other_weights_in_a_folder_are_not_shown(pipe, tmp_path, caplog):
    pipe.save_pretrained(tmp_path / "out")
    other = RestorationUNet(width=4, depth=2)
    other.save_pretrained(tmp_path / "other")
    name = "diffusion_pytorch_model.safetensors"
    shutil.copyfile(tmp_path / "other" / name, tmp_path / "out" / "restorer" / name)
    upload = prepare(tmp_path / "out", "org/mine")
    assert "evaluation.json" not in upload.files and "belong to other weights" in caplog.text


def test_a_run_that_starts_from_weights_inherits_the_license_and_says_its_own_task(pipe):
    run = {"steps": 3, "options": {"init_from": "mine", "degradation": {"type": "gaussian"}}, "git_commit": "0" * 40}
    keep_run_record(pipe.restorer, run)
    record = record_of(pipe.restorer)
    assert record.training == {"steps": 3, "options": run["options"], "license": RESEARCH.name, "task": "denoise"}
    assert (record.evaluation, record.card, set(record.licenses)) == ({}, None, {"LICENSE.md"})
    assert (pipe.task, pipe.restorer.config.license) == ("denoise", RESEARCH.name)


def test_a_fused_adapter_brings_its_license(tmp_path):
    restorer = RestorationUNet(width=4, depth=2, license="mit")
    config = AdapterConfig("bias", fingerprint(dict(restorer.named_parameters())), licence="cc-by-nc-4.0")
    save_adapter(tmp_path / "adapter", config, updates_for(restorer, "bias"))
    pipe = DAARestorationPipeline(restorer)
    pipe.load_adapter(tmp_path / "adapter")
    pipe.save_pretrained(tmp_path / "plain")
    pipe.fuse_adapter()
    pipe.save_pretrained(tmp_path / "fused")
    pipe.unfuse_adapter()
    pipe.save_pretrained(tmp_path / "unfused")
    keys = [describe(tmp_path / name).license.key for name in ("plain", "fused", "unfused")]
    assert keys == ["mit", "cc-by-nc-4.0", "mit"]


def test_a_damaged_record_is_reported_and_keeps_nobody_from_restoring(made, tmp_path, caplog):
    folder = shutil.copytree(made, tmp_path / "mine")
    (folder / "training.json").write_text("{")
    pipe = DAARestorationPipeline.from_pretrained(folder)
    assert pipe.task is None and "the record of these weights cannot be read" in caplog.text


def test_a_record_that_is_a_link_out_of_the_folder_is_not_read(made, tmp_path, caplog):
    folder = shutil.copytree(made, tmp_path / "mine")
    (folder / "LICENSE.md").unlink()
    (tmp_path / "secret").write_text("secret")
    (folder / "LICENSE.md").symlink_to(tmp_path / "secret")
    DAARestorationPipeline.from_pretrained(folder).save_pretrained(tmp_path / "out")
    assert "link to a place outside the folder" in caplog.text and not (tmp_path / "out" / "LICENSE.md").exists()


@pytest.mark.parametrize(
    ("said", "key", "non_commercial"),
    [
        ("mit", "mit", False),
        ("cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0", True),
        ("non-commercial-research", "non-commercial-research", True),
        ("Only for Non-Commercial use.", "non-commercial-research", True),
        ("Do what you like.", None, False),
        ("other", "other", False),
    ],
)
def test_a_license_is_known_by_its_words(said, key, non_commercial):
    license = license_named(said)
    assert (license.key, license.non_commercial) == (key, non_commercial)
