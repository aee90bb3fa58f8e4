"""Training of a noise predictor beside a frozen restorer, and the conditions that it is trained with."""

import json

import pytest
import torch
from safetensors.torch import load_file

from daa_diffusers import DAAUNet2DConditionModel, RestorationUNet
from daa_diffusers.degradations.filters import gaussian_filter
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.conditions import KINDS, RADIUS, ConditionDraws, draw_conditions, make_conditions
from daa_diffusers.objectives.predictor_training import NoisePredictorTraining
from daa_diffusers.training.config import PRESETS, read_yaml, resolve
from daa_diffusers.training.loop import train
from examples.bundle_checkpoint import main as bundle

from ..conftest import PROJECT_ROOT
from ..training.test_loop import interrupt_at, state

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}


def objective(**options):
    torch.manual_seed(0)
    return NoisePredictorTraining(RestorationUNet(width=4, depth=2), DAAUNet2DConditionModel(**SMALL), **options)


def batch(size=4):
    clean, noise = torch.rand(size, 3, 16, 16), 0.1 * torch.randn(size, 3, 16, 16)
    return Batch(clean + noise, clean)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def condition(kind, amount=0.5, variant=False):
    clean, degraded, restored = torch.rand(3, 3, 3, 16, 16, generator=generator())
    noise = torch.randn(3, 3, 16, 16, generator=generator())
    number = torch.full((3,), list(KINDS).index(kind))
    draws = ConditionDraws(number, torch.full((3, 1, 1, 1), amount), torch.full((3, 1, 1, 1), variant), noise)
    return make_conditions(draws, clean, degraded, restored), clean, degraded, restored, noise


def test_each_kind_of_condition_is_what_its_comment_says():
    found, clean, degraded, restored, noise = condition("weaker")
    torch.testing.assert_close(found, (restored + degraded) / 2)
    assert torch.allclose(condition("stronger")[0], (clean + restored) / 2)
    assert torch.equal(condition("restored")[0], restored) and torch.equal(condition("clean")[0], clean)
    assert not condition("dropped")[0].any()
    torch.testing.assert_close(condition("noisy")[0], clean + 25 / 255 * noise)
    sigma = torch.full((3, 1, 1, 1), 0.3 + 1.7 * 0.5)
    for variant, photos in ((False, clean), (True, restored)):
        torch.testing.assert_close(condition("blurred", variant=variant)[0], gaussian_filter(photos, sigma, RADIUS))


def test_correlated_noise_is_as_strong_as_white_noise():
    white, correlated = (condition("noisy", amount=1.0, variant=v)[0] - condition("clean")[0] for v in (False, True))
    assert correlated.std().item() == pytest.approx(50 / 255, rel=0.1)
    neighbors = [
        torch.corrcoef(torch.stack([n[..., 1:].flatten(), n[..., :-1].flatten()]))[0, 1] for n in (white, correlated)
    ]
    assert neighbors[0] < 0.2 < 0.7 < neighbors[1]


def test_half_of_the_pairs_are_made_alike_and_kinds_have_their_shares():
    like = torch.zeros(4000, 1, 1, 1)
    first, second = draw_conditions(like, generator())
    same = (first.amount == second.amount).float().mean()
    assert same.item() == pytest.approx(0.5, abs=0.03)
    for draws in (first, second):
        counts = torch.bincount(draws.kind, minlength=len(KINDS)) / len(like)
        shares = torch.tensor(list(KINDS.values())) / sum(KINDS.values())
        torch.testing.assert_close(counts, shares, rtol=0, atol=0.03)


def test_the_predictor_learns_and_the_restorer_does_not():
    step, photos = objective(), batch()
    output = step(photos, generator=[generator()] * 4)
    output.loss.backward()
    assert all(p.grad is None for p in (*step.restorer.parameters(), *step.average.parameters()))
    assert all(p.grad is not None for p in step.unet.parameters())
    assert set(output.losses) == {"pair", "noise_positive", "total"}
    assert not step.train().restorer.training and not step.average.training and step.unet.training


def test_draws_are_a_function_of_the_first_sample_s_generator():
    step, photos = objective().eval(), batch()
    first, again, other = (step(photos, generator=[generator(seed)]).loss for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_second_condition_is_of_another_photo_unless_matched():
    step = objective(matched=1.0)
    seen = []
    step.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["conditions"]), with_kwargs=True
    )
    clean = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16) / 4
    step.restorer.forward = lambda x: x
    for step.matched in (0.0, 1.0):
        step(Batch(clean, clean), generator=generator(3))
    mean = [[c.mean((1, 2, 3)) for c in conditions] for conditions in seen]
    numbers = [[(4 * m).round() for m in pair] for pair in mean]  # dropped ones read 0, noise is below half a step
    (first, other), (_, own) = numbers
    photo = torch.arange(4.0)
    assert all(((a == b) | (a == 0)).all() for a, b in ((first, photo), (other, photo.roll(1)), (own, photo)))
    assert (other > 0).any() and (own > 0).any()


def test_swapped_residuals_are_the_negative_of_eq_4():
    step, photos = objective(residual_swap=True), batch()
    losses = step(photos, generator=generator()).losses
    positive, negative = losses["noise_positive"], losses["noise_negative"]
    expected = (positive + (positive - negative + 0.1).relu()) / 2
    torch.testing.assert_close(losses["noise"], expected)


def test_the_average_follows_the_predictor():
    step = objective(decay=0.5)
    with torch.no_grad():
        for p in step.unet.parameters():
            p.fill_(1.0)
        for p in step.average.parameters():
            p.zero_()
    step.after_step(10)
    for p in step.average.parameters():
        torch.testing.assert_close(p.data, torch.full_like(p, 1 - 2 / 11))  # the warm-up
    assert step.kept_networks["noise_predictor"] is step.average


@pytest.fixture
def config(tiny_config, checkpoint):
    def make(**changes):
        options = {"type": "noise_predictor", "noise_predictor": "tiny", "noise_predictor_options": SMALL}
        return tiny_config(
            objective=options, real=[], init_from=checkpoint, steps=4, save_noise_predictor=True, **changes
        )

    return make


def test_an_interrupted_training_ends_bit_identical_and_keeps_the_average(config, tmp_path, monkeypatch):
    whole = train(config(output_dir=str(tmp_path / "whole")), progress_bar=False)
    cut = config(output_dir=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(cut, progress_bar=False)
    train(cut, progress_bar=False)
    expected, found = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)
    unet = DAAUNet2DConditionModel.from_pretrained(whole.pipeline / "unet")
    assert all(torch.equal(v, found[f"model.average.{k}"]) for k, v in unet.state_dict().items())
    assert list(unet.config.value_range) == [0.0, 1.0]


def test_predictors_of_a_run_are_bundled_by_step_in_half_precision(config, tmp_path):
    train(config(output_dir=str(tmp_path / "run")), progress_bar=False)
    bundle([str(tmp_path / "run"), "bundled", "--noise_predictor", "2", "4", "--folder", str(tmp_path)])
    for step in (2, 4):
        folder = tmp_path / "bundled" / str(step)
        weights = load_file(folder / "diffusion_pytorch_model.safetensors")
        kept = load_file(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        assert all(torch.equal(v, kept[f"average.{k}"].half()) for k, v in weights.items())
        assert json.loads((folder / "training.json").read_text())["steps"] == step
        assert not any(str(tmp_path) in (folder / name).read_text() for name in ("config.json", "training.json"))


def test_what_it_needs_is_asked_for(tiny_config):
    with pytest.raises(ConfigurationError, match="needs a restorer .*`init_from`(.|\n)*`batch_size` of at least 2"):
        tiny_config(objective="noise_predictor", real=[], batch_size=1).check()


def test_the_committed_recipe_trains_the_predictor_of_preset_adapt():
    config = resolve(read_yaml(PROJECT_ROOT / "examples" / "configs" / "noise-predictor.yaml"))
    adapt = PRESETS["adapt"]["objective"]
    assert config.objective["noise_predictor_options"] == adapt["noise_predictor_options"]
    assert config.objective["noise_predictor"] == adapt.get("noise_predictor", "tiny") and config.save_noise_predictor
