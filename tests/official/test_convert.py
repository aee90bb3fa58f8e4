"""Official checkpoints converted to the networks of this package."""

import logging

import pytest
import torch

from daa_diffusers.models.restoration_unet import RestorationUNet
from daa_diffusers.official.convert import convert_official_state_dict

from .conftest import SIZES, official, restorer_only
from .to_official import official_parameter_names, to_official_state_dict

BUFFERS = {
    "gammas",
    "sqrt_recip_gammas",
    "sqrt_recipm1_gammas",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- what comes out ---


def test_both_networks_come_back_with_their_sizes():
    restorer, unet = convert_official_state_dict(official(), **SIZES)
    assert (restorer.config.width, restorer.config.depth, restorer.config.channels) == (4, 3, 3)
    assert restorer.config.align_corners is True
    assert unet.config.block_out_channels == (8, 16, 16)
    assert (unet.config.layers_per_block, unet.config.norm_num_groups, unet.config.attention_head_dim) == (1, 8, 4)
    assert unet.config.dropout == 0.2
    assert not restorer.training and not unet.training


@pytest.mark.parametrize(("task", "expected"), [("denoise", [0, 1]), ("derain", [-1, 1]), ("deblur", [-1, 1])])
def test_the_task_decides_the_value_range(task, expected):
    restorer, _ = convert_official_state_dict(restorer_only(official()), task=task)
    assert list(restorer.config.value_range) == expected


def test_converted_networks_are_ordinary_ones(tmp_path):
    restorer, unet = convert_official_state_dict(official(), dropout=0.0, **SIZES)
    for name, network in (("restorer", restorer), ("unet", unet)):
        network.save_pretrained(str(tmp_path / name))
        assert same(type(network).from_pretrained(str(tmp_path / name)), network)
    x = torch.rand(2, 3, 8, 8)
    restored = restorer(x)
    unet(torch.randn(2, 3, 8, 8), 0.5, conditions=(restored, restored)).sample.sum().backward()
    parameters = [*restorer.parameters(), *unet.parameters()]
    assert all(p.is_leaf and p.requires_grad and p.device.type == "cpu" and p.grad is not None for p in parameters)


def test_the_networks_share_no_memory_with_the_state_dict():
    state = official()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    restorer, unet = convert_official_state_dict(state, **SIZES)
    with torch.no_grad():
        for parameter in [*restorer.parameters(), *unet.parameters()]:
            parameter.fill_(7)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    back = to_official_state_dict(restorer, unet)
    back["RestorationNet.last.bias"].zero_()
    assert (restorer.conv_out.bias == 7).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_float_dtype_become_float32(dtype):
    state = {name: tensor.to(dtype) for name, tensor in restorer_only(official()).items()}
    restorer, _ = convert_official_state_dict(state)
    assert {p.dtype for p in restorer.parameters()} == {torch.float32}
    assert torch.equal(restorer.conv_out.weight, state["last.weight"].float())


def test_conversion_draws_no_random_numbers():
    state = official()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    convert_official_state_dict(state, **SIZES)
    assert torch.equal(torch.rand(4), expected)


def test_the_license_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="daa_diffusers.official.convert"):
        convert_official_state_dict(restorer_only(official()))
    assert "license" in caplog.text


# --- names that official files come with ---


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: name.replace("RestorationNet.", "RestorationNet.module.").replace(
            "denoise_fn.", "denoise_fn.module."
        ),
    ],
    ids=["plain", "module outside", "module inside"],
)
def test_data_parallel_prefixes_are_ignored(rename):
    expected = convert_official_state_dict(official(), **SIZES)
    converted = convert_official_state_dict({rename(name): tensor for name, tensor in official().items()}, **SIZES)
    assert all(same(a, b) for a, b in zip(converted, expected, strict=True))


@pytest.mark.parametrize("prefix", ["", "module.", "RestorationNet.", "module.RestorationNet."])
def test_a_restorer_alone_comes_without_a_noise_predictor(prefix):
    state = {prefix + name: tensor for name, tensor in restorer_only(official()).items()}
    restorer, unet = convert_official_state_dict(state)
    assert unet is None
    assert same(restorer, convert_official_state_dict(official(), **SIZES)[0])


def test_schedule_buffers_may_be_absent():
    state = {name: tensor for name, tensor in official().items() if name not in BUFFERS}
    assert len(official()) - len(state) == len(BUFFERS)
    restorer, unet = convert_official_state_dict(state, **SIZES)
    assert restorer is not None and unet is not None


def test_names_map_to_parameters_of_both_networks():
    restorer, unet = convert_official_state_dict(official(), **SIZES)
    names = official_parameter_names(restorer, unet)
    assert names.keys() == official().keys() - BUFFERS
    ours = [name for parts in names.values() for name in parts]
    expected = {f"restorer.{n}" for n, _ in restorer.named_parameters()} | {
        f"unet.{n}" for n, _ in unet.named_parameters()
    }
    assert len(ours) == len(set(ours)) and set(ours) == expected
    assert names["denoise_fn.middle_block.1.qkv.weight"] == tuple(
        f"unet.mid_block.attentions.0.to_{part}.weight" for part in "qkv"
    )
    assert names["RestorationNet.up_path.1.conv_block.block.2.bias"] == ("restorer.up_blocks.1.block.conv2.bias",)
    assert all(name.startswith("RestorationNet.") for name in official_parameter_names(restorer))


def test_q_k_v_interleave_per_head():
    state = official()
    qkv = torch.arange(3 * 16.0)[:, None, None].expand(48, 16, 1)  # row r of the official weight holds r
    _, unet = convert_official_state_dict({**state, "denoise_fn.middle_block.1.qkv.weight": qkv}, **SIZES)
    attention = unet.mid_block.attentions[0]
    rows = {part: getattr(attention, f"to_{part}").weight[:, 0].tolist() for part in "qkv"}
    for offset, part in enumerate("qkv"):  # (heads, 3, head_channels): four heads of four channels
        assert rows[part] == [12 * head + 4 * offset + channel for head in range(4) for channel in range(4)]


# --- what cannot be converted ---


def test_every_problem_is_listed_in_one_error():
    state = official()
    state["denoise_fn.output_blocks.2.1.qkv.weight"] = torch.zeros(3)
    state["optimizer.step"] = torch.zeros(1)
    state["RestorationNet.last.weight"] = torch.zeros(3, 9, 3, 3)
    state["denoise_fn.middle_block.1.qkv.weight"] = torch.zeros(48, 16)
    state["RestorationNet.last.bias"] = torch.zeros(3, dtype=torch.int64)
    state["denoise_fn.out.2.bias"] = "no tensor"
    state["gammas"] = state["gammas"] * 0.999
    state["posterior_mean_coef1"] = torch.zeros(2000)
    for name in ("RestorationNet.down_path.0.block.0.weight", "denoise_fn.input_blocks.3.0.emb_layers.1.bias"):
        del state[name]
    with pytest.raises(ValueError) as error:
        convert_official_state_dict(state, **SIZES)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "2 missing: RestorationNet.down_path.0.block.0.weight, denoise_fn.input_blocks.3.0.emb_layers.1.bias",
        "2 unknown: denoise_fn.output_blocks.2.1.qkv.weight, optimizer.step",
        "4 of a wrong shape or type: RestorationNet.last.bias is torch.int64, not a floating point tensor, "
        "RestorationNet.last.weight is (3, 9, 3, 3), should be (3, 4, 3, 3), "
        "denoise_fn.middle_block.1.qkv.weight is (48, 16), should be (48, 16, 1), "
        "denoise_fn.out.2.bias is str, not a floating point tensor",
        "2 not of the schedule beta 1e-6..1e-2 in 1000 steps: gammas differs by up to 0.001, "
        "posterior_mean_coef1 is (2000,), should be (1000,)",
    ]


# Of each kind one, those first that sizes are read from.
WEIGHTS = [
    "RestorationNet.down_path.0.block.0.weight",
    "RestorationNet.down_path.2.block.2.bias",
    "RestorationNet.up_path.0.conv_up.weight",
    "RestorationNet.up_path.1.conv_block.block.0.bias",
    "RestorationNet.last.weight",
    "denoise_fn.input_blocks.0.0.weight",
    "denoise_fn.input_blocks.1.0.out_layers.3.weight",
    "denoise_fn.input_blocks.3.0.skip_connection.weight",
    "denoise_fn.input_blocks.5.0.in_layers.0.bias",
    "denoise_fn.output_blocks.1.1.in_layers.2.weight",
    "denoise_fn.output_blocks.3.1.out_layers.0.bias",
    "denoise_fn.output_blocks.5.0.emb_layers.1.weight",
    "denoise_fn.middle_block.0.in_layers.0.weight",
    "denoise_fn.middle_block.1.qkv.bias",
    "denoise_fn.middle_block.1.proj_out.weight",
    "denoise_fn.cond_embed.0.weight",
    "denoise_fn.out.0.weight",
    "denoise_fn.out.2.weight",
]


@pytest.mark.parametrize("name", WEIGHTS)
def test_any_one_missing_or_misshapen_weight_is_named_alone(name):
    state = official()
    shape = tuple(state.pop(name).shape)
    with pytest.raises(ValueError) as error:
        convert_official_state_dict(state, **SIZES)
    assert str(error.value).splitlines()[1:] == [f"1 missing: {name}"]
    wrong = (shape[0] + 8, *shape[1:])
    with pytest.raises(ValueError) as error:
        convert_official_state_dict(official(**{name: torch.zeros(wrong)}), **SIZES)
    expected = f"1 of a wrong shape or type: {name} is {wrong}, should be {shape}"
    assert str(error.value).splitlines()[1:] == [expected]


def test_a_buffer_of_another_schedule_is_named():
    state = {name: tensor + 0.01 if name in BUFFERS else tensor for name, tensor in official().items()}
    with pytest.raises(ValueError) as error:
        convert_official_state_dict(state, **SIZES)
    (line,) = str(error.value).splitlines()[1:]
    assert line.startswith("6 not of the schedule beta 1e-6..1e-2 in 1000 steps: ")
    assert all(f"{name} differs by up to 0.01" in line for name in BUFFERS)


def test_a_missing_block_is_listed_whole():
    state = {
        n: t
        for n, t in official().items()
        if not n.startswith(("denoise_fn.input_blocks.2.", "RestorationNet.down_path.1."))
    }
    with pytest.raises(ValueError) as error:
        convert_official_state_dict(state, **SIZES)
    (line,) = str(error.value).splitlines()[1:]
    missing = line.removeprefix("14 missing: ").split(", ")
    assert sorted(missing) == sorted(official().keys() - state.keys())


@pytest.mark.parametrize("state", [{}, {"net.conv.weight": torch.zeros(1)}, {"denoise_fn.out.2.bias": torch.zeros(3)}])
def test_without_a_restorer_the_error_says_what_is_needed(state):
    with pytest.raises(ValueError, match="`state_dict` must hold the official restorer, keys down_path"):
        convert_official_state_dict(state)


def test_one_name_given_twice_raises():
    state = restorer_only(official())
    with pytest.raises(ValueError, match=r"got twice: \['last.bias'\]"):
        convert_official_state_dict({**state, "module.last.bias": state["last.bias"]})


def test_a_restorer_with_and_without_prefix_is_not_guessed_at():
    state = official()
    with pytest.raises(ValueError, match="1 unknown: last.bias"):
        convert_official_state_dict({**state, "last.bias": state["RestorationNet.last.bias"]}, **SIZES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "dehaze"}, r"`task` must be one of \['deblur', 'denoise', 'derain'\], got 'dehaze'"),
        ({"groups": 0}, "`groups` must be a positive integer, got 0"),
        ({"head_channels": 2.0}, "`head_channels` must be a positive integer, got 2.0"),
        ({"dropout": 1.0}, r"`dropout` must lie in \[0, 1\), got 1.0"),
        ({"groups": 3}, r"`groups` must divide the noise predictor's channels \(8, 16, 16\), got 3"),
        ({"head_channels": 5}, "`head_channels` must divide the noise predictor's last width, 16, got 5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        convert_official_state_dict(official(), **{**SIZES, **arguments})


def test_a_model_instead_of_its_state_dict_raises():
    with pytest.raises(ValueError, match="`state_dict` must be a mapping of names to tensors, got RestorationUNet"):
        convert_official_state_dict(RestorationUNet(width=2, depth=1))
