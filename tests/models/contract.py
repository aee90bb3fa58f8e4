"""What every network of the package keeps, as tests to inherit: a class sets `model_class` and gives tiny models."""

import json
import logging
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn


@contextmanager
def diffusers_warnings():
    """Collects what diffusers warns of; its loggers do not reach the root, where pytest listens."""
    records: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    library = logging.getLogger("diffusers")
    library.addHandler(handler)
    try:
        yield records
    finally:
        library.removeHandler(handler)


def is_plain_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain_json(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain_json(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


class ModelContract:
    """Tests of save/load, config, sizes, dtypes, determinism, batches and gradients (DESIGN, habit 12)."""

    model_class: type[nn.Module]
    paper_parameters: int

    def build(self) -> nn.Module:
        """A tiny model with other than default arguments."""
        raise NotImplementedError

    def inputs(self, batch: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Keyword arguments of `forward`; the first `batch` samples are the same for any larger batch."""
        raise NotImplementedError

    @staticmethod
    def photos(batch: int, channels: int, height: int, width: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
        one_by_one = [
            torch.rand(channels, height, width, generator=torch.Generator().manual_seed(97 * seed + i))
            for i in range(batch)
        ]
        return torch.stack(one_by_one).to(dtype)

    def run(self, model: nn.Module, **inputs) -> torch.Tensor:
        output = model(**inputs)
        return output if isinstance(output, torch.Tensor) else output.sample

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    # --- construction ---

    def test_the_paper_preset_has_the_official_number_of_parameters(self):
        with torch.device("meta"):
            model = self.model_class.from_preset("paper")
        assert sum(parameter.numel() for parameter in model.parameters()) == self.paper_parameters

    def test_presets_grow_and_take_overrides(self):
        with torch.device("meta"):
            counts = [
                sum(p.numel() for p in self.model_class.from_preset(preset).parameters())
                for preset in ("tiny", "small", "paper")
            ]
        assert counts[0] < counts[1] / 3 < counts[2] / 9

    def test_an_unknown_preset_is_named_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"`preset` must be one of \['paper', 'small', 'tiny'\], got 'huge'"):
            self.model_class.from_preset("huge")

    def test_weights_start_kaiming_normal_and_biases_zero(self, model):
        scales = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is None or not module.bias.any()
                fan_in = module.weight[0].numel()
                scales.append(((module.weight * (fan_in / 2) ** 0.5).std().item(), module.weight.numel()))
        total = sum(count for _, count in scales)
        assert total > 1000
        assert abs(sum(scale * count for scale, count in scales) / total - 1) < 0.03
        assert all(abs(scale - 1) < 6 / count**0.5 for scale, count in scales)

    # --- config ---

    def test_the_config_is_plain_json(self, model):
        config = dict(model.config)
        assert is_plain_json(config)
        # what a file gives back builds the same model: tuples come back as lists
        again = self.model_class.from_config(json.loads(model.to_json_string()))
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in again.state_dict().items()}

    def test_from_config_repeats_every_argument_without_a_warning(self, model):
        with diffusers_warnings() as warnings:
            again = self.model_class.from_config(model.config)
        assert warnings == []
        arguments = self.model_class._get_init_keys(self.model_class) - {"self"}
        assert {name: again.config[name] for name in arguments} == {name: model.config[name] for name in arguments}

    # --- files ---

    def test_a_saved_model_loads_as_it_was(self, model, tmp_path):
        inputs = self.inputs(1, 16, 16)
        model.save_pretrained(str(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "config.json",
            "diffusion_pytorch_model.safetensors",
        ]
        with diffusers_warnings() as warnings:
            loaded = self.model_class.from_pretrained(str(tmp_path))
        assert warnings == []
        assert not loaded.training
        saved = model.state_dict()
        assert saved.keys() == loaded.state_dict().keys()
        assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.state_dict().items())
        with torch.no_grad():  # close, not equal: loaded weights are aligned otherwise in memory, and round otherwise
            torch.testing.assert_close(self.run(loaded, **inputs), self.run(model, **inputs), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
    def test_half_weights_load_as_float32_unless_asked_otherwise(self, model, tmp_path, half):
        model.to(half).save_pretrained(str(tmp_path))
        assert {t.dtype for t in load_file(tmp_path / "diffusion_pytorch_model.safetensors").values()} == {half}
        loaded = self.model_class.from_pretrained(str(tmp_path))
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        assert all(torch.equal(a, b.float()) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
        loaded = self.model_class.from_pretrained(str(tmp_path), dtype=half)
        assert {p.dtype for p in loaded.parameters()} == {half}

    def test_a_folder_without_weights_raises(self, model, tmp_path):
        model.save_pretrained(str(tmp_path))
        (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(OSError, match="diffusion_pytorch_model"):
            self.model_class.from_pretrained(str(tmp_path))

    # --- forward ---

    @pytest.mark.parametrize("sides", [(1, 1), (1, 5), (3, 2)])
    def test_any_multiple_of_the_size_keeps_its_size(self, model, sides):
        height, width = (side * model.size_multiple for side in sides)
        with torch.no_grad():
            assert self.run(model, **self.inputs(2, height, width)).shape[2:] == (height, width)

    @pytest.mark.parametrize("change", [(1, 0), (0, -1)])
    def test_other_sizes_raise_and_name_the_multiple(self, model, change):
        height, width = 16 + change[0], 16 + change[1]
        with pytest.raises(ValueError, match=rf"multiples of {model.size_multiple}, got \({height}, {width}\)"):
            self.run(model, **self.inputs(1, height, width))

    def test_eval_is_deterministic(self, model):
        with torch.no_grad():
            first = self.run(model, **self.inputs(2, 16, 16))
            torch.manual_seed(99)
            assert torch.equal(first, self.run(model, **self.inputs(2, 16, 16)))

    def test_a_batch_equals_its_samples(self, model):
        with torch.no_grad():
            one, three = self.run(model, **self.inputs(1, 16, 24)), self.run(model, **self.inputs(3, 16, 24))
        assert three.shape[0] == 3
        torch.testing.assert_close(three[:1], one, rtol=1e-4, atol=1e-5)
        assert (three[1] - three[0]).abs().max() > 1e-2  # samples do differ

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1)])
    def test_other_dtypes_agree_with_float32(self, model, dtype, tolerance):
        with torch.no_grad():
            single = self.run(model, **self.inputs(2, 16, 16))
            other = self.run(model.to(dtype), **self.inputs(2, 16, 16, dtype))
        assert other.dtype == dtype
        assert ((other.float() - single).norm() / single.norm()).item() < tolerance

    def test_gradients_reach_every_parameter_and_every_input(self, model):
        model.train()
        inputs = self.inputs(2, 16, 16)
        images = [t for v in inputs.values() for t in (v if isinstance(v, tuple) else (v,)) if t.ndim == 4]
        for image in images:
            image.requires_grad_()
        self.run(model, **inputs).square().mean().backward()
        named = [*model.named_parameters(), *((f"input {i}", image) for i, image in enumerate(images))]
        dead = [name for name, tensor in named if tensor.grad is None or not tensor.grad.any()]
        assert dead == []
        assert all(tensor.grad.isfinite().all() for _, tensor in named)
