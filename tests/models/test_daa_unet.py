import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel, Dropout, UpsamplingConv2d

from .paper_contract import PaperContract

LEVELS = torch.tensor([0.3, 0.9, 0.999, 0.5])


def build(**overrides) -> DAAUNet2DConditionModel:
    arguments = {
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "dropout": 0.0,
    }
    return DAAUNet2DConditionModel(**{**arguments, **overrides})


def images(batch: int = 4, size: int = 16, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, size, size, generator=generator).to(dtype) for _ in range(3))


@pytest.fixture
def model() -> DAAUNet2DConditionModel:
    torch.manual_seed(0)
    return build().eval()


class TestDAAUNetContract(PaperContract):
    model_class = DAAUNet2DConditionModel
    paper_parameters = 62_643_075

    def build(self):
        return build(dropout=0.1)

    def inputs(self, batch, height, width, dtype=torch.float32):
        sample, first, second = (self.photos(batch, 3, height, width, seed, dtype) for seed in (1, 2, 3))
        return {"sample": sample, "timestep": LEVELS[:batch].clone(), "conditions": (first, second)}


def test_it_is_the_diffusers_class_with_nine_channels_and_without_text(model):
    assert isinstance(model, UNet2DConditionModel)
    assert (model.config.in_channels, model.config.out_channels) == (9, 3)
    assert model.config.layers_per_block == 1
    assert [len(block.resnets) for block in model.up_blocks] == [2, 2, 2]
    assert not any("attn2" in name or "cross" in name for name, _ in model.named_modules())
    assert DAAUNet2DConditionModel.from_preset("tiny").config.block_out_channels == (16, 32, 64, 128)
    assert DAAUNet2DConditionModel.from_preset("tiny", dropout=0.0).config.dropout == 0.0


def test_one_file_reloads_with_other_arguments(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    loaded = DAAUNet2DConditionModel.from_pretrained(str(tmp_path), dropout=0.3)
    assert loaded.config.dropout == 0.3
    assert loaded.mid_block.resnets[0].dropout.p == loaded.down_blocks[0].resnets[0].dropout.p == 0.3


# --- channel shuffling, eq. (2) ---


def predict(model, *args, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, **kwargs).sample


def network_input(model, *args, **kwargs) -> torch.Tensor:
    """The nine channels that the first convolution sees."""
    seen = []
    handle = model.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        predict(model, *args, **kwargs)
    finally:
        handle.remove()
    return seen[0]


def test_a_swap_exchanges_the_conditions_of_its_samples_only(model):
    z, a, b = images()
    swap = torch.tensor([True, False, True, False])
    seen = network_input(model, z, LEVELS, conditions=(a, b), swap=swap)
    kept, swapped = torch.cat([z, a, b], dim=1), torch.cat([z, b, a], dim=1)
    assert torch.equal(seen[~swap], kept[~swap])
    assert torch.equal(seen[swap], swapped[swap])


def test_swapping_equals_giving_the_conditions_the_other_way_round(model):
    z, a, b = images()
    everywhere = torch.ones(4, dtype=torch.bool)
    swapped = predict(model, z, LEVELS, conditions=(a, b), swap=everywhere)
    assert torch.equal(swapped, predict(model, z, LEVELS, conditions=(b, a), swap=~everywhere))
    assert (swapped - predict(model, z, LEVELS, conditions=(a, b))).abs().max() > 1e-3


def test_nine_channels_equal_an_image_with_conditions_swaps_included(model):
    z, a, b = images()
    nine = torch.cat([z, a, b], dim=1)
    swap = torch.tensor([True, False, False, True])
    assert torch.equal(predict(model, nine, LEVELS), predict(model, z, LEVELS, conditions=(a, b)))
    assert torch.equal(predict(model, nine, LEVELS, swap=swap), predict(model, z, LEVELS, conditions=(a, b), swap=swap))


def test_eval_swaps_nothing_of_itself(model):
    z, a, b = images()
    for seed in range(5):
        torch.manual_seed(seed)
        assert torch.equal(network_input(model, z, LEVELS, conditions=(a, b)), torch.cat([z, a, b], dim=1))


def test_training_draws_each_samples_swap_with_probability_one_half(model):
    model.train()
    z, a, b = (image[:1].expand(400, -1, -1, -1) for image in images(1, 4))
    draws = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        seen = network_input(model, z, 0.5, conditions=(a, b), generator=generator)
        swapped = (seen[:, 3:6] == b).flatten(1).all(dim=1)
        assert torch.equal(seen[:, 6:], torch.where(swapped[:, None, None, None], a, b))
        draws.append(swapped)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert all(150 < draw.sum() < 250 for draw in draws)  # 200 +- 5 standard deviations


def test_training_without_a_generator_follows_the_global_seed(model):
    model.train()
    z, a, b = (image[:1].expand(32, -1, -1, -1) for image in images(1, 4))
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(network_input(model, z, 0.5, conditions=(a, b)))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_a_given_swap_is_taken_in_training_too(model):
    model.train()
    z, a, b = images()
    nowhere = torch.zeros(4, dtype=torch.bool)
    for seed in range(5):
        torch.manual_seed(seed)
        seen = network_input(model, z, LEVELS, conditions=(a, b), swap=nowhere)
        assert torch.equal(seen, torch.cat([z, a, b], dim=1))


# --- the noise level ---


def embedded_levels(model, timestep) -> torch.Tensor:
    seen = []
    handle = model.time_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dtype = model.conv_in.weight.dtype
    try:
        predict(model, torch.zeros(2, 9, 4, 4, dtype=dtype), timestep)
    finally:
        handle.remove()
    return seen[0]


def test_the_noise_level_is_not_rounded(model):
    z, a, b = images(1)
    close, closer = (predict(model, z, g, conditions=(a, b)) for g in (0.5001, 0.5002))
    assert not torch.equal(close, closer)
    assert torch.equal(close, predict(model, z, torch.tensor([0.5001]), conditions=(a, b)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_noise_level_stays_float32_in_a_model_of_any_dtype(model, dtype):
    model.to(dtype)
    levels = torch.tensor([0.5001, 0.99999])
    for given in (levels, levels.double()):
        seen = embedded_levels(model, given)
        assert seen.dtype == torch.float32
        assert torch.equal(seen, levels)


def test_one_noise_level_serves_a_batch(model):
    z, a, b = images()
    one = predict(model, z, 0.7, conditions=(a, b))
    assert torch.equal(one, predict(model, z, torch.tensor(0.7), conditions=(a, b)))
    assert torch.equal(one, predict(model, z, torch.full((4,), 0.7), conditions=(a, b)))


# --- what makes it a diffusers model ---


def test_output_as_a_tuple_or_a_diffusers_object(model):
    z, a, b = images()
    with torch.no_grad():
        output = model(z, LEVELS, conditions=(a, b))
        (plain,) = model(z, LEVELS, conditions=(a, b), return_dict=False)
    assert isinstance(output, UNet2DConditionOutput)
    assert torch.equal(output.sample, plain)


def test_gradient_checkpointing_changes_no_gradient():
    z, a, b = images(2)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build(dropout=0.2).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        assert model.is_gradient_checkpointing == checkpointing
        torch.manual_seed(1)  # dropout
        model(z, LEVELS[:2], conditions=(a, b), swap=torch.tensor([True, False])).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-7) for p, q in zip(*gradients, strict=True))


# --- the same function, faster ---


def test_an_upsampling_convolution_is_nearest_upsampling_and_a_convolution():
    torch.manual_seed(0)
    conv = UpsamplingConv2d(4, 6, 3, padding=1).double()
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    ours = conv(x, upsample=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(ours, plain)
    sought = (x, conv.weight, conv.bias)
    seed = torch.randn_like(plain)
    for one, other in zip(*(torch.autograd.grad(y, sought, seed) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other)


def test_every_upsampler_and_dropout_is_the_fast_one():
    model = build(dropout=0.3)
    convolutions = [u.conv1 for block in model.up_blocks for u in block.upsamplers or ()]
    assert len(convolutions) == 2 and all(isinstance(conv, UpsamplingConv2d) for conv in convolutions)
    dropouts = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p]
    assert len(dropouts) == 15 and all(isinstance(m, Dropout) and m.p == 0.3 for m in dropouts)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    dropout = Dropout(p).train()
    torch.manual_seed(0)
    x = torch.ones(33, 101, 7, requires_grad=True)  # no multiple of four
    y = dropout(x)
    y.sum().backward()
    kept, scale = y != 0, 1 / (1 - p) if p < 1 else 0.0
    assert (~kept).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    torch.testing.assert_close(y, kept * scale, rtol=1e-2, atol=0)
    assert torch.equal(x.grad, y.detach())
    flat = (~kept).float().flatten()
    if 0 < p < 1:  # neighbors, which share a 64-bit number, are independent
        assert torch.corrcoef(torch.stack([flat[:-1], flat[1:]]))[0, 1].abs() < 5 / x.numel() ** 0.5
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


def test_attention_processors_are_listed_and_replaceable(model):
    assert list(model.attn_processors) == ["mid_block.attentions.0.processor"]
    assert isinstance(model.attn_processors["mid_block.attentions.0.processor"], AttnProcessor2_0)
    z, a, b = images()
    before = predict(model, z, LEVELS, conditions=(a, b))
    calls = []

    class Counting(AttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            calls.append(1)
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    model.set_attn_processor(Counting())
    assert isinstance(model.attn_processors["mid_block.attentions.0.processor"], Counting)
    torch.testing.assert_close(predict(model, z, LEVELS, conditions=(a, b)), before, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1
    model.set_attn_processor(AttnProcessor2_0())
    model.set_default_attn_processor()
    assert type(model.attn_processors["mid_block.attentions.0.processor"]) is AttnProcessor
    torch.testing.assert_close(predict(model, z, LEVELS, conditions=(a, b)), before, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1


def test_the_attention_is_the_only_way_across_the_image(model):
    # a corner of a large input reaches the far corner's prediction through the mid block
    z, a, b = (image.requires_grad_() for image in images(1, 64))
    model(z, 0.5, conditions=(a, b)).sample[..., 0, 0].sum().backward()
    assert all(image.grad[..., -1, -1].any() for image in (z, a, b))


# --- wrong arguments ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 6}, "`in_channels` must be three times `out_channels`.*got 6 and 3"),
        ({"out_channels": 4}, "`in_channels` must be three times `out_channels`.*got 9 and 4"),
        ({"attention_head_dim": 5}, r"`attention_head_dim` must divide.*got 5 and \(8, 16, 16\)"),
        ({"norm_num_groups": 3}, r"`norm_num_groups` must divide.*got 3 and \(8, 16, 16\)"),
        ({"norm_num_groups": 16}, r"`norm_num_groups` must divide.*got 16 and \(8, 16, 16\)"),
    ],
)
def test_sizes_that_do_not_fit_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": torch.zeros(2, 9, 16, 16)}, r"`sample` must be \(B, 3, H, W\) when `conditions` are given"),
        ({"sample": torch.zeros(3, 16, 16)}, r"`sample` must be \(B, 3, H, W\) when `conditions` are given"),
        ({"conditions": None}, r"`sample` must be \(B, 9, H, W\) when no `conditions` are given"),
        ({"conditions": (torch.zeros(2, 3, 16, 16),)}, "`conditions` must be two tensors of the shape of `sample`"),
        (
            {"conditions": (torch.zeros(2, 3, 16, 16), torch.zeros(1, 3, 16, 16))},
            r"`conditions` must be two tensors.*got \[\(2, 3, 16, 16\), \(1, 3, 16, 16\)\]",
        ),
        ({"timestep": torch.tensor([500, 1])}, "`timestep` must be the float noise level g in .0, 1., got torch.int64"),
        ({"timestep": 7}, "`timestep` must be the float noise level g in .0, 1., got torch.int64"),
        ({"timestep": torch.tensor([0.5])}, r"`timestep` must be \(B,\) = \(2,\), got \(1,\)"),
        ({"timestep": torch.full((2, 1), 0.5)}, r"`timestep` must be \(B,\) = \(2,\), got \(2, 1\)"),
        ({"timestep": torch.tensor([0.5, 1.0])}, r"`timestep` must hold noise levels in \(0, 1\), got \[0.5, 1.0\]"),
        ({"timestep": 0.0}, r"`timestep` must hold noise levels in \(0, 1\)"),
        ({"timestep": torch.tensor([0.5, float("nan")])}, r"`timestep` must hold noise levels in \(0, 1\)"),
        ({"swap": torch.tensor([1, 0])}, r"`swap` must be bool of shape \(2,\), got torch.int64"),
        ({"swap": torch.tensor([True])}, r"`swap` must be bool of shape \(2,\), got torch.bool of \(1,\)"),
        ({"encoder_hidden_states": torch.zeros(2, 1, 8)}, "`encoder_hidden_states` must be None"),
    ],
)
def test_inputs_that_do_not_fit_raise(model, change, message):
    image = torch.zeros(2, 3, 16, 16)
    inputs = {"sample": image, "timestep": torch.tensor([0.5, 0.6]), "conditions": (image, image)}
    model(**inputs)
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, **change})
