"""What every wrapped network keeps, as tests to inherit: a class gives a tiny network with random weights."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline, ForeignRestorer

from ..models.contract import ModelContract, diffusers_warnings, is_plain_json


class ForeignContract:
    """Tests of wrapping, files, pipeline, sizes, batches, gradients and an adaptation."""

    options: dict[str, Any] = {}  # of `ForeignRestorer.wrap`
    is_global = False
    half_tolerance = 0.1
    adaptation: dict[str, Any] = {}  # options of its training, where the network is a large one

    def network(self) -> nn.Module:
        """A tiny network."""
        raise NotImplementedError

    def restore(self, network: nn.Module, photos: torch.Tensor) -> torch.Tensor:
        """What the network itself makes of photos of a size that it takes."""
        return network(photos)

    _made: ForeignRestorer | None = None

    @pytest.fixture
    def restorer(self) -> ForeignRestorer:
        cls = type(self)
        if cls._made is None:  # wrapped once: the probe takes longer than a test
            torch.manual_seed(0)
            cls._made = ForeignRestorer.wrap(self.network(), **self.options).eval()
        return copy.deepcopy(cls._made)

    def photos(self, restorer, batch=1, more=(0, 0), seed=1) -> torch.Tensor:
        """Photos of the smallest size of at least 32 pixels that fits, plus some multiples."""
        least = max(restorer.config.minimum_size, 32)
        multiple = restorer.size_multiple
        height, width = (-(-least // multiple) * multiple + cells * multiple for cells in more)
        return ModelContract.photos(batch, restorer.config.channels, height, width, seed, torch.float32)

    def test_it_restores_as_the_network_itself_does(self, restorer):
        x = self.photos(restorer)
        with torch.no_grad():
            torch.testing.assert_close(restorer(x), self.restore(restorer.network, x), rtol=1e-4, atol=1e-5)

    def test_the_config_is_plain_json_and_builds_the_same_network(self, restorer):
        assert is_plain_json(dict(restorer.config))
        again = ForeignRestorer.from_config(json.loads(restorer.to_json_string()))
        assert type(again.network) is type(restorer.network)
        shapes = {name: tensor.shape for name, tensor in restorer.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in again.state_dict().items()}

    def test_what_is_saved_loads_without_the_original_and_without_a_warning(self, restorer, tmp_path):
        x = self.photos(restorer)
        restorer.save_pretrained(str(tmp_path))
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
        with diffusers_warnings() as warnings:
            loaded = ForeignRestorer.from_pretrained(str(tmp_path))
        assert warnings == [] and not loaded.training
        with torch.no_grad():
            torch.testing.assert_close(loaded(x), restorer(x), rtol=1e-4, atol=1e-5)
        alone = DAARestorationPipeline.from_pretrained(tmp_path).restorer  # a restorer's folder is a checkpoint as well
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), restorer.parameters(), strict=True))

    def test_the_pipeline_saves_it_and_restores_odd_sizes(self, restorer, tmp_path):
        channels = restorer.config.channels
        photo = np.random.default_rng(0).integers(0, 256, (37, 21, channels), dtype=np.uint8)
        photo = photo if channels > 1 else photo[:, :, 0]
        pipe = DAARestorationPipeline(restorer)
        pipe.save_pretrained(tmp_path / "saved")
        loaded = DAARestorationPipeline.from_pretrained(tmp_path / "saved")
        before, after = (p(photo, output_type="np").images[0].astype(int) for p in (pipe, loaded))
        assert before.shape[:2] == (37, 21) and np.abs(before - after).max() <= 1
        assert pipe(photo[:1, :1], output_type="np").images[0].shape[:2] == (1, 1)

    def test_other_multiples_keep_their_size(self, restorer):
        x = self.photos(restorer, 1, (1, 0))
        with torch.no_grad():
            assert restorer(x).shape == x.shape

    def test_a_batch_equals_its_samples_and_eval_is_deterministic(self, restorer):
        three = self.photos(restorer, 3)
        with torch.no_grad():
            first = restorer(three)
            torch.manual_seed(99)
            assert torch.equal(first, restorer(three))
            torch.testing.assert_close(first[:1], restorer(three[:1]), rtol=1e-3, atol=1e-4)

    def test_half_precision_agrees_roughly(self, restorer):
        x = self.photos(restorer)
        with torch.no_grad():
            single = restorer(x)
            half = restorer.to(torch.bfloat16)(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert ((half.float() - single).norm() / single.norm()).item() < self.half_tolerance

    def test_gradients_reach_the_input_and_the_parameters(self, restorer):
        x = self.photos(restorer, 2).requires_grad_()
        restorer.train()(x).square().mean().backward()
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
        missing = [n for n, p in restorer.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []

    def test_its_global_layers_are_found(self, restorer):
        assert restorer.is_global is self.is_global
        if self.is_global:
            assert restorer.receptive_radius is None

    def test_nothing_outside_the_receptive_radius_matters(self, restorer):
        radius = restorer.receptive_radius
        if radius is None:
            pytest.skip("larger than was measured")
        multiple = restorer.size_multiple
        cells = -(-(radius + 8) // multiple)
        side = (2 * cells + 1) * multiple
        center = slice(cells * multiple, cells * multiple + multiple)
        x = ModelContract.photos(1, restorer.config.channels, side, side, 1, torch.float32)
        other = torch.rand_like(x)
        low, high = cells * multiple - radius, cells * multiple + multiple + radius
        other[:, :, low:high, low:high] = x[:, :, low:high, low:high]
        with torch.no_grad():
            same = (restorer(x) - restorer(other))[:, :, center, center].abs().max()
        assert same < 1e-5

    @pytest.mark.slow
    def test_an_adaptation_lowers_its_losses(self, restorer, tmp_path):
        first, last = adapt(restorer, tmp_path, **self.adaptation)
        assert last["pair"] < 0.9 * first["pair"]
        assert last["noise"] < 0.9 * first["noise"]


def adapt(restorer: ForeignRestorer, folder, **options) -> tuple[dict[str, float], dict[str, float]]:
    """A tiny run of the trainer from the restorer's folder; the losses of its first and last steps."""
    import skimage.data
    from PIL import Image

    from daa_diffusers.training.config import resolve
    from daa_diffusers.training.loop import train

    for name, photo, noise in (("clean", skimage.data.astronaut(), 0), ("real", skimage.data.chelsea(), 25)):
        (folder / name).mkdir()
        photo = photo[:300, :440] + noise * np.random.default_rng(0).standard_normal((300, 440, 3))
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / name / "photo.png")
    DAARestorationPipeline(restorer).save_pretrained(folder / "start")
    config = resolve(
        {
            "preset": "tiny",
            "init_from": str(folder / "start"),
            "clean": [str(folder / "clean")],
            "real": [str(folder / "real")],
            "output_dir": str(folder / "run"),
            "noise_predictor_options": {
                "block_out_channels": [8, 16],
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "attention_head_dim": 8,
            },  # fmt: skip
            "patch": max(32, restorer.size_multiple),
            "batch_size": 4,
            "steps": 60,
            "learning_rate": 2e-3,
            "log_every": 15,
            "validate_every": 0,
            "report_to": "none",
            "health": False,
            "threads": 1,
            **options,
        }
    )
    train(config.check(), progress_bar=False)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss/pair" in line]
    first, last = ({name: line[f"loss/{name}"] for name in ("pair", "noise")} for line in (losses[0], losses[-1]))
    return first, last
