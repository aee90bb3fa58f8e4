"""The joint step against the official one: same weights, inputs and draws in; same images, losses and gradients out."""

import pytest
import torch

from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.noise_space import NoiseSpaceAdaptation
from daa_diffusers.objectives.schedules import NoiseDraws, NoiseSchedule
from daa_diffusers.official.convert import convert_official_state_dict

from ..official.to_official import official_parameter_names
from .conftest import Golden

TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-3
PREFIXES = ("RestorationNet.", "denoise_fn.")
VARIANTS = {1: "paired", 2: "extended"}  # by the official diff_flag


def draws_of(golden: Golden) -> NoiseDraws:
    draw = golden.under("draw.")
    return NoiseDraws(draw["noise_level"], draw["noise"], draw["swap"], draw.get("swap_negative"))


class OfficialStep:
    """One joint step on a golden's inputs, its gradients, and what went into and came out of the noise predictor."""

    def __init__(self, golden: Golden):
        restorer, unet = convert_official_state_dict(golden.weights, dropout=golden.config["unet"]["dropout"])
        self.module = NoiseSpaceAdaptation(
            restorer,
            unet,
            variant=VARIANTS[golden.config["diff_flag"]],
            weight=golden.config["adaptation_weight"],
            weight_schedule="constant",
            margin=golden.config["margin"],
            charbonnier_eps=golden.config["charbonnier_eps"],
        ).train()
        self.predictor_inputs: list[torch.Tensor] = []
        self.predictions: list[torch.Tensor] = []
        count = len(golden["input.clean"])
        unet.conv_in.register_forward_pre_hook(lambda _, inputs: self.predictor_inputs.extend(inputs[0].split(count)))
        unet.conv_out.register_forward_hook(lambda _, __, output: self.predictions.extend(output.split(count)))
        images = golden.under("input.")
        self.output = self.module(
            Batch(
                images["synthetic"],
                images["clean"],
                images["real"],
                images["unpaired_clean"] if self.module.variant == "extended" else None,
            ),
            draws=draws_of(golden),
        )
        self.output.loss.backward()
        self.gradients = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def step(golden) -> OfficialStep:
    return OfficialStep(golden)


def test_the_schedule_is_the_official_one(golden, table):
    gammas = NoiseSchedule().gammas
    assert gammas.dtype == torch.float32
    table.add("gammas", gammas, golden["output.noise_schedule_gammas"], tolerance=1e-7)
    table.check()
    # step 2: every golden noise level lies between the gammas of its step
    t, level = golden["draw.timestep"], golden["draw.noise_level"]
    assert ((gammas[t] - 1e-6 <= level) & (level <= gammas[t - 1] + 1e-6)).all()


def test_images_predictor_inputs_and_predictions(golden, step, table):
    for kind in ("synthetic", "real"):
        restored = getattr(step.output, f"restored_{kind}")
        table.add(f"restored_{kind}", restored, golden[f"output.restored_{kind}"], tolerance=TOLERANCE)
    for name, ours in (("denoiser_input", step.predictor_inputs), ("noise_prediction", step.predictions)):
        expected = golden.under(f"output.{name}_")
        assert len(ours) == len(expected), f"{name}: {len(ours)} passes, officially {len(expected)}"
        for i, tensor in enumerate(ours):
            table.add(f"{name}_{i}", tensor, expected[str(i)], tolerance=TOLERANCE)
    table.check()


def test_losses(golden, step, table):
    weight = golden.config["adaptation_weight"]
    losses = step.output.losses
    pair, noise = golden["output.loss_restoration"], golden["output.loss_diffusion"]
    table.add("pair", losses["pair"], pair, tolerance=TOLERANCE)
    table.add("noise", losses["noise"], noise, tolerance=TOLERANCE)
    for name in ("total", "loss"):
        total = step.output.loss if name == "loss" else losses["total"]
        table.add(name, total, pair + weight * noise, tolerance=TOLERANCE)
    assert losses["weight"].item() == pytest.approx(weight)
    table.check()


def test_the_named_terms_are_those_of_the_golden_predictions(golden, step, table):
    eps = golden["draw.noise"]
    positive = (golden["output.noise_prediction_0"] - eps).square().mean()
    table.add("noise_positive", step.output.losses["noise_positive"], positive, tolerance=TOLERANCE)
    if step.module.variant == "paired":
        negative = (golden["output.noise_prediction_1"] - eps).square().mean()
        table.add("noise_negative", step.output.losses["noise_negative"], negative, tolerance=TOLERANCE)
        # (4)
        noise = (positive + (positive - negative + golden.config["margin"]).relu()) / 2
        table.add("contrastive", noise, golden["output.loss_diffusion"], tolerance=TOLERANCE)
    else:
        assert "noise_negative" not in step.output.losses
    table.check()


def test_gradient_norms_of_every_parameter(golden, step, table):
    expected = golden.under("grad_norm.")
    names = official_parameter_names(step.module.restorer, step.module.unet)
    assert expected.keys() == names.keys()
    assert {name for ours in names.values() for name in ours} == step.gradients.keys()

    def norm(official: str) -> torch.Tensor:  # an official qkv is three parameters of ours
        return torch.stack([step.gradients[ours].norm() for ours in names[official]]).norm()

    # A bias right before a GroupNorm with one channel a group changes nothing: its true gradient is zero, what the
    # golden holds (about 1e-10) is rounding. All of these, and only these, are compared absolutely.
    idle = {key for key, value in expected.items() if value < 1e-8}
    groups = step.module.unet.config.norm_num_groups
    assert all(key.endswith(".bias") and golden.weights[key].numel() == groups for key in idle)
    assert len(idle) <= 8
    rows = {part: sorted(k for k in expected if k.startswith(part) and k not in idle) for part in PREFIXES}
    for part, keys in [*rows.items(), ("idle biases", sorted(idle))]:
        ours = torch.stack([norm(key) for key in keys])
        theirs = torch.stack([expected[key].reshape(()) for key in keys])
        relative = part in PREFIXES
        tolerance = GRADIENT_TOLERANCE if relative else 1e-8
        table.add(f"grad_norm {part}", ours, theirs, tolerance=tolerance, relative=relative)
    table.check()


def test_both_predictions_are_one_pass(golden):
    restorer, unet = convert_official_state_dict(golden.weights, dropout=0.0)
    module = NoiseSpaceAdaptation(restorer, unet, variant=VARIANTS[golden.config["diff_flag"]])
    batches: list[int] = []
    unet.conv_in.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    images = golden.under("input.")
    with torch.no_grad():
        module(
            Batch(images["synthetic"], images["clean"], images["real"], images["unpaired_clean"]),
            draws=draws_of(golden),
        )
    count = len(images["clean"])
    assert batches == ([2 * count] if module.variant == "paired" else [count])
