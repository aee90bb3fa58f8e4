"""Weight files: what wrappers put around names and tensors, and files that hold no weights."""

import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.cli.app import main
from daa_diffusers.errors import CheckpointError
from daa_diffusers.foreign.weights import bare_names, read_weights, weight_names

from .networks import nafnet

WEIGHTS = {"model.0.weight": torch.ones(2, 3, 3, 3), "model.0.bias": torch.zeros(2)}


def named(prefix):
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"params_ema": WEIGHTS, "params": {name: tensor + 1 for name, tensor in WEIGHTS.items()}},
        {"epoch": 3, "state_dict": WEIGHTS, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
        {"model": {"state_dict": WEIGHTS}},
        {"step": 7, "my_network": WEIGHTS},
        {**WEIGHTS, "epoch": 3},
        named("_orig_mod."),
        named("module."),
        named("module._orig_mod."),
        {"state_dict": named("_orig_mod.module.")},
        {"model._orig_mod.0.weight": WEIGHTS["model.0.weight"], "model.0.bias": WEIGHTS["model.0.bias"]},
    ],
)
def test_what_wrappers_put_around_a_state_dict_is_taken_off(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    found = read_weights(tmp_path / "net.pth")
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    assert weight_names(tmp_path / "net.pth") == list(found)


def test_a_part_that_is_called_module_stays_where_not_all_names_start_with_it():
    names = {"module.weight": torch.zeros(1), "head.weight": torch.zeros(1)}
    assert bare_names(names).keys() == names.keys()


def test_several_networks_in_a_file_are_named(tmp_path):
    torch.save({"g_a": WEIGHTS, "d_a": WEIGHTS}, tmp_path / "gan.pth")
    with pytest.raises(CheckpointError, match=r"got several networks \(g_a, d_a\): save the restorer's weights only"):
        read_weights(tmp_path / "gan.pth")


def test_the_content_decides_and_not_the_suffix(tmp_path):
    save_file(WEIGHTS, tmp_path / "net.pth")
    torch.save(WEIGHTS, tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        assert read_weights(tmp_path / name).keys() == WEIGHTS.keys()


def _bytes_of(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _zip(stream):
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")


WHOLE = _bytes_of(lambda stream: torch.save(WEIGHTS, stream))
NOT_WEIGHTS = {
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
    "page": (b"\n <!DOCTYPE html><html><head>", "is a web page"),
    "text": (b'{"error": "Entry not found"}', 'is a text file, not weights; it starts with \'{"error"'),
    "truncated": (WHOLE[:-30], "was not downloaded completely"),
    "head": (WHOLE[: len(WHOLE) // 2], "was not downloaded completely"),
    "pickle": (b"\x80\x02}q\x00", "is damaged"),
    "zip": (_bytes_of(_zip), "is a zip archive, not a file of torch.save"),
    "script": (_bytes_of(lambda stream: torch.jit.save(torch.jit.script(torch.nn.ReLU()), stream)), "TorchScript"),
    "gzip": (b"\x1f\x8b\x08\x00", "is an archive: unpack it"),
    "keras": (b"\x89HDF\r\n\x1a\n", "HDF5"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_a_file_that_holds_no_weights_is_named_as_what_it_is(tmp_path, kind, suffix):
    content, message = NOT_WEIGHTS[kind]
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    for read in (read_weights, DAARestorationPipeline.from_pretrained):
        with pytest.raises(CheckpointError, match=rf"(?s)net\{suffix}.*{message}"):
            read(path)


def test_a_pointer_in_a_pipelines_folder_is_named(tmp_path):
    DAARestorationPipeline.from_pretrained("daa-denoise-research").save_pretrained(tmp_path)
    weights = tmp_path / "restorer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(NOT_WEIGHTS["pointer"][0])
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        DAARestorationPipeline.from_pretrained(tmp_path)


# --- the commands, with the file itself ---


@pytest.fixture
def network(tmp_path):
    network = nafnet().eval()
    torch.save(
        {"params": {f"_orig_mod.{name}": t for name, t in network.state_dict().items()}}, tmp_path / "nafnet.pth"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    return network


def test_info_restore_and_evaluate_take_the_file(network, tmp_path, capsys):
    path = str(tmp_path / "nafnet.pth")
    assert main(["info", path]) == 0
    said = capsys.readouterr().out
    assert "NAFNet:NAFNet" in said and "unknown" in said and f"{sum(p.numel() for p in network.parameters())}" in said
    assert (
        main(
            [
                "restore",
                str(tmp_path / "photos"),
                "-o",
                str(tmp_path / "out"),
                "--checkpoint",
                path,
                "--no-guard",
                "--dtype",
                "float32",
            ]
        )
        == 0
    )
    photo = torch.from_numpy(np.array(Image.open(tmp_path / "photos/a.png"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = network(photo).clamp(0, 1)
    restored = np.array(Image.open(next((tmp_path / "out").glob("*.png"))))
    assert np.abs(restored - 255 * expected[0].permute(1, 2, 0).numpy()).max() < 0.51
    shutil.copytree(tmp_path / "photos", tmp_path / "clean")
    assert main(["evaluate", str(tmp_path / "photos"), "--clean", str(tmp_path / "clean"), "--checkpoint", path]) == 0
    assert "nafnet.pth" in capsys.readouterr().out


def test_convert_keeps_the_license_and_record_that_stand_beside_a_file(tmp_path, capsys):
    bundled = DAARestorationPipeline.from_pretrained("daa-denoise-research")
    bundled.restorer.save_pretrained(tmp_path / "alone")
    file = tmp_path / "alone/diffusion_pytorch_model.safetensors"
    for number, given in enumerate((file, tmp_path / "alone")):
        assert main(["convert", str(given), str(tmp_path / f"made{number}")]) == 0
        assert "keep their license, non-commercial" in capsys.readouterr().out
        made = DAARestorationPipeline.from_pretrained(tmp_path / f"made{number}")
        training = made.restorer.weights_record.training
        assert made.task == "denoise" and training.items() >= bundled.restorer.weights_record.training.items()
        assert [source["file"] for source in training["wrapped_from"]] == [file.name]


def test_convert_writes_a_folder_with_task_file_and_no_license_of_ours(network, tmp_path, capsys):
    folder = tmp_path / "mine"
    assert main(["convert", str(tmp_path / "nafnet.pth"), str(folder), "--task", "denoise"]) == 0
    assert "license of the weights is unknown" in capsys.readouterr().out
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "denoise" in said and "unknown" in said and "converted" in said
    pipeline = DAARestorationPipeline.from_pretrained(folder)
    weights = pipeline.restorer.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert pipeline.task == "denoise"
    assert main(["convert", str(tmp_path / "nafnet.pth"), str(folder)]) == 2  # it is there
    assert main(["convert", str(tmp_path / "nafnet.pth"), str(tmp_path / "b"), "--task", "dehaze"]) == 2


def test_rank_says_that_a_noise_predictor_is_needed(network, tmp_path, capsys):
    assert main(["rank", str(tmp_path / "photos"), "--checkpoint", str(tmp_path / "nafnet.pth")]) == 2
    assert "holds no noise predictor" in capsys.readouterr().err


def test_a_training_starts_from_the_file(network, tmp_path):
    from daa_diffusers.training.config import resolve
    from daa_diffusers.training.setup import build_model

    photos = {"clean": [str(tmp_path / "photos")], "real": [str(tmp_path / "photos")]}
    config = resolve({"init_from": str(tmp_path / "nafnet.pth"), "output_dir": str(tmp_path / "run"), **photos})
    restorer = build_model(config.check()).restorer
    assert restorer.config.architecture == "NAFNet:NAFNet"
