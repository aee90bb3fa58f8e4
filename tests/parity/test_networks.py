"""Converted networks against the official ones, each on its own: no training code involved."""

import torch

from daa_diffusers.official.convert import convert_official_state_dict

from ..official.to_official import to_official_state_dict

TOLERANCE = 2e-5


def test_sizes_are_inferred_as_the_official_run_had_them(golden):
    restorer, unet = convert_official_state_dict(golden.weights)
    official = golden.config["unet"]
    assert restorer.config.width == golden.config["restorer_width"]
    assert list(unet.config.block_out_channels) == [official["inner_channel"] * m for m in official["channel_mults"]]
    assert unet.config.layers_per_block == official["res_blocks"]
    assert (unet.config.in_channels, unet.config.out_channels) == (official["in_channel"], official["out_channel"])
    assert unet.config.attention_head_dim == official["num_head_channels"]


def test_the_restorer_restores_the_same(golden, table):
    restorer, _ = convert_official_state_dict(golden.weights)
    with torch.no_grad():
        for kind in ("synthetic", "real"):
            restored = restorer(golden[f"input.{kind}"])
            table.add(f"restored_{kind}", restored, golden[f"output.restored_{kind}"], tolerance=TOLERANCE)
    table.check()


def test_the_noise_predictor_predicts_the_same(golden, table):
    _, unet = convert_official_state_dict(golden.weights)
    inputs = golden.under("output.denoiser_input_")
    assert set(inputs) == ({"0", "1"} if golden.config["diff_flag"] == 1 else {"0"})
    with torch.no_grad():
        for i, nine_channels in inputs.items():
            predicted = unet(nine_channels, golden["draw.noise_level"]).sample
            table.add(f"noise_prediction_{i}", predicted, golden[f"output.noise_prediction_{i}"], tolerance=TOLERANCE)
    table.check()


def test_conditions_and_swaps_give_the_same_prediction(joint_golden, table):
    golden = joint_golden
    _, unet = convert_official_state_dict(golden.weights)
    z = golden["output.denoiser_input_0"][:, :3]
    restored = golden["output.restored_synthetic"], golden["output.restored_real"]
    with torch.no_grad():
        predicted = unet(z, golden["draw.noise_level"], conditions=restored, swap=golden["draw.swap"]).sample
    table.add("noise_prediction_0", predicted, golden["output.noise_prediction_0"], tolerance=TOLERANCE)
    table.check()


def test_everything_official_comes_back(golden, table):
    back = to_official_state_dict(*convert_official_state_dict(golden.weights))
    assert back.keys() == golden.weights.keys()
    assert all(back[name].shape == tensor.shape for name, tensor in golden.weights.items())
    weights = {name for name in back if name.startswith(("denoise_fn.", "RestorationNet."))}
    # the weights only moved, the schedule's buffers are made anew
    for kind, names, tolerance in (("weights", weights, 0.0), ("schedule buffers", back.keys() - weights, 1e-6)):
        ours, theirs = (
            torch.cat([state[name].flatten() for name in sorted(names)]) for state in (back, golden.weights)
        )
        table.add(kind, ours, theirs, tolerance=tolerance, relative=tolerance > 0)
    table.check()
