"""Records of weights in uploads."""

import json
import logging

import pytest

from daa_diffusers import (
    DAARestorationPipeline,
    DAAUNet2DConditionModel,
    RestorationUNet,
)
from daa_diffusers.cli.app import main
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.hub.licenses import RESEARCH
from daa_diffusers.hub.publish import prepare, send
from daa_diffusers.hub.record_files import WeightsRecord
from daa_diffusers.hub.records import record_of

from .conftest import EVALUATION, TRAINING, check_folder

# --- the Hub ---

PUSHES = {
    "the pipeline": lambda pipe, out, **options: pipe.push_to_hub("org/out", **options),
    "the restorer": lambda pipe, out, **options: pipe.restorer.push_to_hub("org/out", **options),
    "a pipeline that is saved": lambda pipe, out, **options: pipe.save_pretrained(
        out, push_to_hub=True, repo_id="org/out", **options
    ),
    "a restorer that is saved": lambda pipe, out, **options: pipe.restorer.save_pretrained(
        out, push_to_hub=True, repo_id="org/out", **options
    ),
    "a folder": lambda pipe, out, **options: (pipe.save_pretrained(out), send(prepare(out, "org/out", **options))),
    "a folder of a restorer": lambda pipe, out, **options: (
        pipe.restorer.save_pretrained(out),
        send(prepare(out, "org/out", **options)),
    ),
}


@pytest.mark.parametrize("way", PUSHES)
def test_every_upload_has_the_record_and_the_whole_card(writable_hub, pipe, tmp_path, way):
    with pytest.raises(ConfigurationError, match="`license` is 'mit', but these weights are under .*research-only"):
        PUSHES[way](pipe, tmp_path / "out", license="mit")
    assert writable_hub.commits == []
    PUSHES[way](pipe, tmp_path / "out")
    pushed = writable_hub.revisions["org/out"]["main"]
    check_folder(pushed)
    head = (pushed / "README.md").read_text().split("---")[1]
    assert f"license_name: {RESEARCH.name}" in head and "deraining" in head and "value: 23.0" in head


def test_a_card_is_rendered_for_a_lone_restorer(writable_hub, pipe):
    pipe.restorer.weights_record = WeightsRecord(TRAINING)
    pipe.restorer.push_to_hub("org/out")
    pushed = writable_hub.revisions["org/out"]["main"]
    card = (pushed / "README.md").read_text()
    assert {path.name for path in pushed.iterdir()} == {
        *("README.md", "config.json", "training.json", "diffusion_pytorch_model.safetensors")
    }
    assert "A deraining network" in card and "7 steps" in card and TRAINING["licence"] in card


def test_a_lone_noise_predictor_is_pushed_under_the_license_of_its_training(writable_hub, tmp_path):
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
    pipe = DAARestorationPipeline(RestorationUNet(width=4, depth=2), DAAUNet2DConditionModel(**sizes))
    pipe.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text(json.dumps(TRAINING))
    unet = DAARestorationPipeline.from_pretrained(tmp_path / "mine", load_noise_predictor=True).unet
    with pytest.raises(ConfigurationError, match="`license` is 'mit', but"):
        unet.push_to_hub("org/unet", license="mit")
    unet.push_to_hub("org/unet")
    pushed = writable_hub.revisions["org/unet"]["main"]
    card = (pushed / "README.md").read_text()
    assert RESEARCH.name in card and "The noise predictor of a restorer's training" in card
    assert DAAUNet2DConditionModel.from_pretrained(pushed).weights_record.training["steps"] == 7


def test_the_publishers_license_comes_back_from_the_hub(writable_hub, tmp_path):
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).push_to_hub("org/out", license="cc-by-nc-4.0")
    pipe = DAARestorationPipeline.from_pretrained("org/out", cache_dir=tmp_path / "cache")
    with pytest.raises(ConfigurationError, match="`license` is 'mit', but these weights are under cc-by-nc-4.0"):
        pipe.push_to_hub("org/other", license="mit")


def test_a_restorer_of_a_pipeline_on_the_hub_keeps_the_record(writable_hub, pipe, tmp_path):
    pipe.push_to_hub("org/out")
    restorer = RestorationUNet.from_pretrained("org/out", subfolder="restorer", cache_dir=tmp_path / "cache")
    record = record_of(restorer)
    assert record.training["steps"] == 7 and record.evaluation["sets"] == EVALUATION["sets"]
    assert record.licenses == {"LICENSE.md": b"For research."}


def test_the_command_refuses_to_push_a_saved_copy_under_another_license(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "out")
    assert main(["push", str(tmp_path / "out"), "org/out", "--license", "mit", "--dry-run"]) != 0
    assert "non-commercial-research" in " ".join(capsys.readouterr().err.split())


def test_saving_is_quiet_where_nothing_is_lost(pipe, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        pipe.save_pretrained(tmp_path / "out")
    assert caplog.text == ""
