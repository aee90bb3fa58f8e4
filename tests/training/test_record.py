"""The record that a run leaves with the weights that it trained."""

import json
import shutil

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.hub.description import describe
from daa_diffusers.training.loop import train


def test_a_run_saves_its_record_beside_the_weights_and_inherits_the_license(tiny_config, tmp_path):
    start = RestorationUNet(width=4, depth=2, task="derain", license="non-commercial-research")
    DAARestorationPipeline(start).save_pretrained(tmp_path / "start")
    run = train(tiny_config(init_from=str(tmp_path / "start"), steps=1, health=False), progress_bar=False)
    moved = shutil.move(run.pipeline, tmp_path / "moved")  # from its run.json
    found = describe(moved)
    assert found.license.key == "non-commercial-research" and found.training["steps"] == 1
    assert found.task == "denoise"  # by the degradation of the run
    assert "clean" in found.training["photos"] and found.training["options"]["init_from"].endswith("start")
    config = json.loads((moved / "restorer" / "config.json").read_text())
    assert (config["task"], config["license"]) == ("denoise", "non-commercial-research")


def test_what_starts_from_free_weights_is_free(tiny_config):
    run = train(tiny_config(init_from="daa-denoise", steps=1, patch=32, health=False), progress_bar=False)
    assert describe(run.pipeline).license.key == "cc-by-4.0"
