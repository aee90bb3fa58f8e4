"""Small pipelines, records of weights, and servers that stand in for the Hub."""

import json

import pytest
import torch

from daa_diffusers import (
    DAARestorationPipeline,
    DAAUNet2DConditionModel,
    RestorationUNet,
)
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.hub.description import describe
from daa_diffusers.hub.licenses import RESEARCH
from daa_diffusers.hub.publish import prepare

from .hub_server import loopback_hub

TRAINING = {
    "licence": "Weights trained on research-only photos: for non-commercial research use only.",
    "steps": 7,
    "options": {"degradation": {"type": "rain"}, "batch_size": 2},
}
EVALUATION = {"protocol": "RGB.", "sets": [{"set": "street", "photos": 3, "psnr": {"identity": 20.0, "mine": 23.0}}]}
CARD = "# Rain, and what I saw in it\n"
CODE = {"pipeline.py", "image_processor.py", "restorer/restoration_unet.py"}
FILES = {"model_index.json", "restorer/config.json", "restorer/diffusion_pytorch_model.safetensors", "README.md"}


def build(seed: int = 0, unet: bool = True, **options) -> DAARestorationPipeline:
    """A tiny pipeline, with a noise predictor unless `unet` is False."""
    torch.manual_seed(seed)
    predictor = DAAUNet2DConditionModel(block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8)
    return DAARestorationPipeline(RestorationUNet(**{"width": 4, "depth": 2, **options}), predictor if unet else None)


def weights(pipeline) -> dict[str, torch.Tensor]:
    return pipeline.restorer.state_dict()


def same(a: DAARestorationPipeline, b: DAARestorationPipeline) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def saved(tmp_path):
    """A folder with a pipeline, and files beside it that restoring does not need."""
    folder = tmp_path / "saved"
    build().save_pretrained(folder)
    (folder / "README.md").write_text("# A card")
    (folder / "restorer" / "diffusion_pytorch_model.bin").write_bytes(b"never loaded")
    return folder


@pytest.fixture
def hub(monkeypatch, saved):
    with loopback_hub(monkeypatch) as hub:
        hub.revisions["org/restorer"] = {"main": saved}
        yield hub


@pytest.fixture
def load(tmp_path):
    """Loads from the Hub by way of a cache of the test's own."""

    def load(name="org/restorer", **options):
        return DAARestorationPipeline.from_pretrained(name, cache_dir=tmp_path / "cache", **options)

    return load


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def writable_hub(monkeypatch, tmp_path):
    with loopback_hub(monkeypatch, tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield hub


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pipeline's folder as earlier versions wrote it: nothing in the config, all beside it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("made") / "mine"
    DAARestorationPipeline(RestorationUNet(width=4, depth=2)).save_pretrained(folder)
    config = json.loads((folder / "restorer" / "config.json").read_text())
    del config["task"], config["license"]
    (folder / "restorer" / "config.json").write_text(json.dumps(config))
    (folder / "training.json").write_text(json.dumps(TRAINING))
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    (folder / "LICENSE.md").write_text("For research.")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def pipe(made):
    return DAARestorationPipeline.from_pretrained(made)


def check_folder(folder):
    """The record is whole, and holds the license."""
    found = describe(folder)
    assert (found.task, found.license.key) == ("derain", RESEARCH.name)
    config = next(path for path in (folder / "restorer/config.json", folder / "config.json") if path.is_file())
    assert {"task": "derain", "license": RESEARCH.name}.items() <= json.loads(config.read_text()).items()
    assert found.training["options"] == TRAINING["options"]
    assert found.evaluation["sets"] == EVALUATION["sets"]
    assert (folder / "LICENSE.md").read_text() == "For research."
    assert (folder / "README.md").read_text().endswith(CARD)
    assert not (folder / "restorer" / "training.json").exists()  # once a folder
    with pytest.raises(ConfigurationError, match="`license` is 'mit', but these weights are under non-commercial-res"):
        prepare(folder, "org/mine", license="mit")
