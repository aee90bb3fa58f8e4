"""`daa info`, run as people run it."""

import json
from pathlib import Path

import pytest
import torch

from daa_diffusers import DAARestorationPipeline, DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.checkpoints import bundled_names
from daa_diffusers.cli.app import main

from ..hub.hub_server import loopback_hub
from ..official.to_official import to_official_state_dict


@pytest.fixture
def pipeline():
    unet = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    return DAARestorationPipeline(RestorationUNet(width=4, depth=2, value_range=[-1, 1]), unet)


def facts(capsys, *arguments) -> dict:
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


FREE = ("daa-denoise", "daa-derain", "daa-deblur")  # trained on photos that may train weights for anyone


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_checkpoint_says_task_license_numbers_and_training(name, capsys):
    assert main(["info", name]) == 0
    said = capsys.readouterr().out
    for text in (
        name.split("-")[1],  # its task
        "1.9 M parameters",
        "[0, 1]",
        "cc-by-4.0" if name in FREE else "non-commercial-research (no commercial use)",
        "size multiple",
    ):
        assert text in said
    assert "| set | photos | identity |" in said and "steps, batch" in said and "float16" in said


def test_a_folder_a_runs_folder_and_a_restorers_file(pipeline, tmp_path, capsys):
    pipeline.save_pretrained(tmp_path / "run" / "pipeline")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"steps": 7, "options": {"batch_size": 2, "patch": 32}}))
    expected = facts(capsys, tmp_path / "run" / "pipeline")
    assert facts(capsys, tmp_path / "run") == expected
    assert expected["value range"] == "[-1, 1]" and expected["size multiple"] == 2
    assert expected["noise predictor"].startswith("DAAUNet2DConditionModel")
    assert expected["license"] == "unknown" and expected["training"] == "7 steps, batch 2, patch 32"
    alone = facts(capsys, tmp_path / "run" / "pipeline" / "restorer" / "diffusion_pytorch_model.safetensors")
    assert alone["parameters"] == expected["parameters"] and "noise predictor" not in alone


def test_the_precision_that_is_chosen_here_is_said_with_its_reason(pipeline, tmp_path, capsys):
    said = facts(capsys, "daa-denoise")["precision here"]
    chosen = DAARestorationPipeline.from_pretrained("daa-denoise").enable_mixed_precision()
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        assert said.startswith("float32 on the ") and "not enabled automatically" in said
    elif chosen is None:
        assert said.startswith("float32 on the cpu") and ("no instructions" in said or "more than 0.3/255" in said)
    else:
        assert said.startswith("bfloat16 on the cpu (--dtype auto): the processor has instructions for bfloat16")
        assert "/255 rms, at most 0.3/255" in said
    pipeline.save_pretrained(tmp_path / "mine")
    weights = tmp_path / "mine" / "restorer" / "diffusion_pytorch_model.safetensors"
    assert "precision here" in facts(capsys, weights)


def test_the_task_in_the_config_beside_a_file_of_another_name_is_shown(tmp_path, capsys):
    RestorationUNet(width=4, depth=2, task="derain").save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "mine.safetensors")
    assert facts(capsys, tmp_path / "mine.safetensors")["task"] == "derain"


def test_an_official_file_is_recognized(pipeline, tmp_path, capsys):
    restorer = RestorationUNet(width=4, depth=3, align_corners=True)
    torch.save(to_official_state_dict(restorer), tmp_path / "net.pth")
    found = facts(capsys, tmp_path / "net.pth")
    assert "daa convert" in found["kind"] and "s-lab-license-1.0" in found["license"]
    assert found["parameters"] == sum(p.numel() for p in restorer.parameters())


def test_a_hub_repository_is_described_without_its_weights(pipeline, tmp_path, capsys, monkeypatch):
    pipeline.save_pretrained(tmp_path / "pushed")
    (tmp_path / "pushed" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with loopback_hub(monkeypatch) as hub:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.revisions["org/restorer"] = {"main": tmp_path / "pushed", "v1": tmp_path / "pushed"}
        found = facts(capsys, "org/restorer")
        assert found["value range"] == "[-1, 1]" and "precision here" not in found
        assert "cc-by-nc-4.0" in found["license"]
        assert facts(capsys, "org/restorer", "--revision", "v1")["kind"] == "Hub repository org/restorer"
        assert not any(name.endswith(".safetensors") for name in hub.downloaded())
        assert main(["info", "org/absent"]) == 2
        assert "org/absent" in capsys.readouterr().err


@pytest.mark.slow
def test_an_onnx_file(pipeline, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pipeline.save_pretrained(tmp_path / "mine")
    assert main(["convert", str(tmp_path / "mine"), str(tmp_path / "mine.onnx")]) == 0
    assert "checked against torch" in capsys.readouterr().out
    found = facts(capsys, tmp_path / "mine.onnx")
    assert (found["value range"], found["size multiple"], found["restorer"]) == ("[-1, 1]", 2, "RestorationUNet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("daa-denose", "did you mean 'daa-denoise"),
        ("absent/a/b", "is not a bundled checkpoint"),
        (".", "'.' is not a pipeline folder: model_index.json is missing; the folder has 2 x .png"),
    ],
)
def test_an_unknown_checkpoint_is_said_in_a_line(name, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for photo in ("a.png", "b.PNG"):
        Path(photo).touch()
    assert main(["info", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") <= 2


def test_damaged_files_are_said_in_a_line(tmp_path, capsys):
    torch.save({"other": torch.zeros(1)}, tmp_path / "net.pth")
    for name, content in (("a.pth", b"text"), ("b.safetensors", b"\x10"), ("c.onnx", b"x"), ("d.txt", b"x")):
        (tmp_path / name).write_bytes(content)
    for name in ("net.pth", "a.pth", "b.safetensors", "d.txt"):
        assert main(["info", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and name in error and "Traceback" not in error
