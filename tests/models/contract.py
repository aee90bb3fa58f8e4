"""What every network of the package keeps, as tests to inherit: a class sets `model_class` and gives tiny models."""

import copy
import json
import logging
import pickle
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file
from torch import nn


def reach(model: nn.Module) -> int:
    """The largest distance over which a pixel's gradient reaches, over all places in a square of `size_multiple`.

    Args:
        model: of one channel, in float64; its parameters are changed.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(0.01)  # positive everywhere: no path cancels another
    grid = model.size_multiple
    size = 2 * -(-(model.receptive_radius + 2) // grid) * grid + grid
    x = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    y = model(x)[0, 0]
    center = size // 2 // grid * grid
    found = 0
    for place in range(center, center + grid):
        (gradient,) = torch.autograd.grad(y[center, place], x, retain_graph=True)
        columns = gradient[0, 0].any(dim=0).nonzero().flatten()
        assert columns[0] > 0 and columns[-1] < size - 1, "the test image is too small to measure"
        found = max(found, place - int(columns[0]), int(columns[-1]) - place)
    return found


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


class LowRank(nn.Module):
    """A layer with a low-rank update beside it, as of LoRA: its shapes follow from the layer's attributes."""

    def __init__(self, base: nn.Conv2d | nn.Linear):
        super().__init__()
        self.base = base
        if isinstance(base, nn.Conv2d):
            geometry = {"stride": base.stride, "padding": base.padding, "bias": False}
            self.down = nn.Conv2d(base.in_channels, 2, base.kernel_size, **geometry)
            self.up: nn.Module = nn.Conv2d(2, base.out_channels, 1, bias=False)
        else:
            self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def own_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


class DiffusersContract:
    """Tests of what diffusers' users do with any model: hooks, adapters, casting, offloading, files, copies.

    The facts are those of diffusers' own test mixins, as far as they hold on a CPU.
    """

    def build(self) -> nn.Module:
        """A tiny model."""
        raise NotImplementedError

    def inputs(self, batch: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Keyword arguments of `forward`."""
        raise NotImplementedError

    def run(self, model: nn.Module, **inputs) -> torch.Tensor:
        output = model(**inputs)
        return output if isinstance(output, torch.Tensor) else output.sample

    def restored(self, model: nn.Module) -> torch.Tensor:
        """What the model makes of two samples, without gradients."""
        with torch.no_grad():
            return self.run(model, **self.inputs(2, 16, 16))

    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    # --- layers are modules that others see ---

    def test_every_layer_with_weights_is_called(self, model):
        layers = {name: module for name, module in model.named_modules() if own_weights(module)}
        called = set()
        for name, module in layers.items():
            module.register_forward_hook(lambda *_, name=name: called.add(name))
        self.restored(model)
        assert called == layers.keys()

    def test_a_low_rank_update_of_any_layer_works_and_learns(self, model):
        before = self.restored(model)
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        wrapped = {name: LowRank(module) for name, module in layers}
        for name, module in wrapped.items():
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module)
        torch.testing.assert_close(self.restored(model), before, rtol=1e-4, atol=1e-4)
        self.run(model, **self.inputs(2, 16, 16)).square().mean().backward()
        assert [name for name, module in wrapped.items() if not module.up.weight.grad.any()] == []

    def test_weights_stored_in_8_bits_are_cast_layer_by_layer(self, model):
        before = self.restored(model)
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        assert model.dtype == torch.float32 and torch.float8_e4m3fn in {p.dtype for p in model.parameters()}
        assert 0 < ((self.restored(model) - before).norm() / before.norm()).item() < 0.3

    def test_weights_are_offloaded_layer_by_layer(self, model):
        before = self.restored(model)
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert {p.device.type for p in model.parameters()} == {"meta"}
        torch.testing.assert_close(self.restored(model), before, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
    def test_groups_of_layers_are_offloaded(self, model, kind):
        before = self.restored(model)
        blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        model.enable_group_offload(torch.device("cpu"), offload_type=kind, **blocks)
        torch.testing.assert_close(self.restored(model), before, rtol=1e-4, atol=1e-5)

    # --- calls ---

    def test_the_output_is_a_tuple_or_a_dict_where_asked_for(self, model):
        plain = self.restored(model)
        with torch.no_grad():
            (as_tuple,) = model(**self.inputs(2, 16, 16), return_dict=False)
            as_dict = model(**self.inputs(2, 16, 16), return_dict=True)
        assert torch.equal(as_tuple, plain) and torch.equal(as_dict.sample, plain) and torch.equal(as_dict[0], plain)

    def test_a_copy_and_a_pickled_model_restore_alike(self, model):
        before = self.restored(model)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert again.config == model.config
            assert torch.equal(self.restored(again), before)

    def test_the_general_questions_are_answered(self, model):
        assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
        assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
        assert model.get_memory_footprint() >= 4 * model.num_parameters()

    # --- files ---

    @pytest.mark.parametrize("variant", [None, "fp16"])
    def test_shards_and_variants_load(self, model, tmp_path, variant):
        saved = model.state_dict()
        model.save_pretrained(tmp_path, max_shard_size="4KB", variant=variant)
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        again = type(model).from_pretrained(tmp_path, variant=variant)
        assert not again.training
        assert all(torch.equal(saved[name], tensor) for name, tensor in again.state_dict().items())

    def test_pickle_is_neither_written_nor_read(self, model, tmp_path):
        with pytest.raises(ValueError, match="`safe_serialization` must be True: pickle"):
            model.save_pretrained(tmp_path / "saved", safe_serialization=False)
        assert not (tmp_path / "saved").exists()
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="`use_safetensors` must be True: pickle"):
            type(model).from_pretrained(tmp_path, use_safetensors=False)
        (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
        with pytest.raises(OSError, match="diffusion_pytorch_model"):
            type(model).from_pretrained(tmp_path)


class ModelContract(DiffusersContract):
    """Tests of save/load, config, sizes, dtypes, determinism, batches and gradients."""

    model_class: type[nn.Module]

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
        if model.size_multiple == 1:
            return
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
