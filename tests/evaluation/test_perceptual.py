"""LPIPS and no-reference scores: what works without a network, and what is said where it does not."""

import sys

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from PIL import Image

from daa_diffusers.errors import ConfigurationError
from daa_diffusers.evaluation import evaluate_folder
from daa_diffusers.evaluation.perceptual import load_lpips


@pytest.fixture
def folders(tmp_path):
    for kind, sigma in (("noisy", 25), ("clean", 0)):
        (tmp_path / kind).mkdir()
        photo = skimage.data.astronaut()[60:124, 150:214]
        photo = (photo + np.random.default_rng(0).normal(0, sigma, photo.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / kind / "a.png")
        Image.fromarray(photo[:20, :20]).save(tmp_path / kind / "small.png")
    return tmp_path / "noisy", tmp_path / "clean"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An AlexNet with random features, where torchvision looks for it; its classifier, unused, takes no space."""
    hub = tmp_path / "torch" / "hub"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    (hub / "checkpoints").mkdir(parents=True)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in torchvision.models.alexnet().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.zeros(()).expand(shape) if "classifier" in key else torch.randn(shape, generator=generator) * 0.05
        for key, shape in shapes.items()
    }
    name = torchvision.models.AlexNet_Weights.DEFAULT.url.rsplit("/", 1)[1]
    torch.save(state, hub / "checkpoints" / name)
    return state


def test_lpips_is_zero_for_identical_photos_and_grows_with_noise(folders, weights):
    result = evaluate_folder({}, *folders, metrics=["lpips"])
    assert result.photos == ("a.png",) and "sides of at least 32 pixels, got 20 x 20" in result.skipped["small.png"]
    assert result.scores["identity"]["lpips"][0] > 0
    score = load_lpips()
    photo = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1))
    assert score(photo, photo) == 0
    values = [score((photo + step).clamp(0, 1), photo) for step in (0.02, 0.2)]
    assert 0 < values[0] < values[1] and values[0] == score((photo + 0.02).clamp(0, 1), photo)
    assert result.main.sign == -1 and "less is better" in result.protocol


def test_missing_weights_are_named_before_anything_is_measured(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ConfigurationError, match=r"lpips needs the weights of torchvision's AlexNet.*alexnet-.*\.pth"):
        evaluate_folder({}, *folders, metrics=["psnr", "lpips"])
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]


def test_pyiqa_is_asked_for_by_name(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ImportError, match="'pyiqa:niqe' needs pyiqa.*pip install pyiqa"):
        evaluate_folder({}, folders[0], metrics=["pyiqa:niqe"])


def test_a_no_reference_score_without_weights(folders):
    pytest.importorskip("pyiqa")
    result = evaluate_folder({}, folders[0], metrics=["pyiqa:piqe"], label_free=False)
    assert result.main.title == "piqe" and result.main.sign == -1 and result.mean("identity", "pyiqa:piqe") > 0
    with pytest.raises(ConfigurationError, match="no-reference scores of pyiqa are .*got 'lpips'"):
        evaluate_folder({}, folders[0], metrics=["pyiqa:lpips"])
