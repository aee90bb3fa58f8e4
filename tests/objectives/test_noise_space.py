"""Noise-space adaptation: gradients, variants, equations, determinism, and wrong inputs."""

import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn

from daa_diffusers.models.daa_unet import DAAUNet2DConditionModel
from daa_diffusers.models.restoration_unet import RestorationUNet
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.losses import charbonnier, measure_gradients
from daa_diffusers.objectives.noise_space import VARIANTS, NoiseSpaceAdaptation
from daa_diffusers.objectives.schedules import WEIGHT_SCHEDULES, NoiseSchedule
from daa_diffusers.objectives.supervised import Supervised

SIZE = (3, 3, 16, 16)


@pytest.fixture
def restorer():
    torch.manual_seed(0)
    return RestorationUNet(width=4, depth=2)


@pytest.fixture
def unet():
    torch.manual_seed(1)
    return DAAUNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8, dropout=0.0
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    clean, real, unpaired = (torch.rand(SIZE, generator=generator) for _ in range(3))
    synthetic = clean + 0.2 * torch.randn(SIZE, generator=generator)
    return {"synthetic": synthetic, "clean": clean, "real": real, "unpaired_clean": unpaired}


def draws(seed=3, **changes):
    made = NoiseSchedule().draw(SIZE, generator=torch.Generator().manual_seed(seed))
    return dataclasses.replace(made, **changes)


def adaptation(restorer, unet, **options):
    return NoiseSpaceAdaptation(restorer, unet, **options)


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weight_schedule", WEIGHT_SCHEDULES)
def test_every_variant_trains_both_networks(restorer, unet, batch, variant, weight_schedule):
    step = adaptation(restorer, unet, variant=variant, weight_schedule=weight_schedule)
    output = step(Batch(**batch), draws=draws())
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in restorer.parameters())
    assert all(p.grad is not None for p in unet.parameters())
    assert output.losses["weight"] > 0
    assert torch.isfinite(output.loss) and not any(v.requires_grad for v in output.losses.values())


@pytest.mark.parametrize("variant", ["paired", "extended", "hybrid"])
def test_both_restored_images_receive_the_adaptation_gradient(restorer, unet, batch, variant):
    """The gradient of L_noise alone, at each restored image, is not zero."""
    seen = {}

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = restorer

        def forward(self, x):
            out = self.inner(x)
            out.register_hook(lambda g: seen.setdefault("gradient", g))
            return out

    step = NoiseSpaceAdaptation(Watched(), unet, variant=variant, weight=1.0, weight_schedule="constant")
    with_pair = step(Batch(**batch), draws=draws()).loss
    with_pair.backward()
    on_synthetic, on_real = seen["gradient"].chunk(2)
    assert on_real.abs().sum() > 0
    pair_only = torch.autograd.grad(
        charbonnier(x := restorer(batch["synthetic"]).detach().requires_grad_(), batch["clean"]), x
    )[0]
    assert (on_synthetic - pair_only).norm() > 1e-3 * pair_only.norm()


def test_the_step_follows_the_equations(restorer, unet, batch):
    """Eq. (1) to (6) written out plainly, one pass at a time, against the module."""
    given = draws(swap=torch.tensor([True, False, True]), swap_negative=torch.tensor([False, True, True]))
    step = NoiseSpaceAdaptation(restorer, unet, weight=0.3, margin=0.1).eval()
    output = step(Batch(**batch), draws=given, progress=0.5)

    x_s, y, x_r = batch["synthetic"], batch["clean"], batch["real"]
    s, q = restorer(x_s), restorer(x_r)
    g = given.noise_level.view(-1, 1, 1, 1)
    z = g.sqrt() * y + (1 - g).sqrt() * given.noise

    def predict(a, b, swap):
        pairs = [(b[i], a[i]) if swap[i] else (a[i], b[i]) for i in range(len(swap))]
        first, second = (torch.stack(side) for side in zip(*pairs, strict=True))
        return unet(torch.cat([z, first, second], 1), given.noise_level).sample

    positive = (predict(s, q, given.swap) - given.noise).square().mean()
    s_negative, q_negative = x_s + (q - x_r), x_r + (s - x_s)
    negative = (predict(s_negative, q_negative, given.swap_negative) - given.noise).square().mean()
    noise = (positive + torch.relu(positive - negative + 0.1)) / 2
    pair = ((s - y).square() + 1e-6).sqrt().mean()
    w = 0.3 * (2 / (1 + torch.exp(torch.tensor(-2.5))) - 1)
    for name, value in {"noise_positive": positive, "noise_negative": negative, "noise": noise, "pair": pair}.items():
        torch.testing.assert_close(output.losses[name], value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.loss, pair + w * noise, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.restored_real, q.detach(), rtol=1e-5, atol=1e-6)


def test_extended_noises_the_unpaired_clean_image_and_has_no_negative(restorer, unet, batch):
    step = NoiseSpaceAdaptation(restorer, unet, variant="extended")
    output = step(Batch(**batch), draws=draws(swap_negative=None))
    assert "noise_negative" not in output.losses
    other = step(Batch(**{**batch, "unpaired_clean": 1 - batch["unpaired_clean"]}), draws=draws(swap_negative=None))
    assert output.losses["noise"] != other.losses["noise"]
    assert output.losses["pair"] == other.losses["pair"]


def test_hybrid_sends_no_adaptation_gradient_into_the_predictor(restorer, unet, batch):
    step = NoiseSpaceAdaptation(restorer, unet, variant="hybrid", weight=0.5, weight_schedule="constant")
    step(Batch(**batch), draws=draws()).loss.backward()
    first = gradients(unet)
    unet.zero_grad()
    step(Batch(**{**batch, "unpaired_clean": 1 - batch["unpaired_clean"]}), draws=draws()).loss.backward()
    for name, gradient in gradients(unet).items():
        torch.testing.assert_close(gradient, first[name])


def test_hybrid_without_unpaired_photos_takes_other_targets_of_the_batch(restorer, unet, batch):
    step = NoiseSpaceAdaptation(restorer, unet, variant="hybrid")
    without = step(Batch(**{**batch, "unpaired_clean": None}), draws=draws())
    rolled = step(Batch(**{**batch, "unpaired_clean": batch["clean"].roll(1, 0)}), draws=draws())
    assert without.losses["adaptation"] == rolled.losses["adaptation"]


def test_balanced_gradient_has_the_asked_for_size_and_leaves_the_predictor_whole(restorer, unet, batch):
    """At q, the gradient is `weight` times as long as the supervised one at s; the predictor keeps that of L_noise."""
    options = {"weight": 0.7, "channel_shuffle": True}
    captured = {}

    def watch(module, arguments, out):
        out.register_hook(lambda g: captured.update(g=g))

    restorer.register_forward_hook(watch)
    balanced = NoiseSpaceAdaptation(restorer, unet, weight_schedule="balanced", **options)
    output = balanced(Batch(**batch), draws=draws())
    output.loss.backward()
    predictor = gradients(unet)
    on_synthetic, on_real = captured["g"].chunk(2)
    unet.zero_grad()
    plain = NoiseSpaceAdaptation(restorer, unet, weight_schedule="constant", weight=1.0)
    plain(Batch(**batch), draws=draws()).loss.backward()
    plain_synthetic, plain_real = captured["g"].chunk(2)

    s = restorer(batch["synthetic"]).detach().requires_grad_()
    pair = torch.autograd.grad(charbonnier(s, batch["clean"]), s)[0]
    torch.testing.assert_close(on_real.norm(), 0.7 * pair.norm(), rtol=1e-4, atol=0)
    w = output.losses["weight"]
    torch.testing.assert_close(w, 0.7 * pair.norm() / plain_real.norm(), rtol=1e-4, atol=0)
    torch.testing.assert_close(on_real, w * plain_real, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(on_synthetic, pair + w * (plain_synthetic - pair), rtol=1e-3, atol=1e-8)
    for name, gradient in gradients(unet).items():
        torch.testing.assert_close(predictor[name], gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("weight_schedule", WEIGHT_SCHEDULES)
def test_gradient_norms_are_those_at_the_restored_images_whatever_the_batch_size(
    restorer, unet, batch, weight_schedule
):
    step = NoiseSpaceAdaptation(restorer, unet, weight_schedule=weight_schedule, weight=0.3)
    output = step(Batch(**batch), draws=draws())
    assert not output.gradients
    output.loss.backward()
    s, q = output.restored_synthetic.requires_grad_(), output.restored_real.requires_grad_()
    given = draws()
    pair = torch.autograd.grad(charbonnier(s, batch["clean"]), s)[0]
    noise = step._noise_loss(batch["clean"], batch["synthetic"], batch["real"], s, q, given, {})
    noise = torch.autograd.grad(noise, q)[0]
    torch.testing.assert_close(output.gradients["pair"], pair.norm() * len(s) ** 0.5)
    torch.testing.assert_close(output.gradients["noise"], noise.norm() * len(s) ** 0.5)


@pytest.mark.parametrize("weight_schedule", WEIGHT_SCHEDULES)
def test_a_step_leaves_nothing_behind(restorer, unet, batch, weight_schedule):
    """No reference cycle holds the graph of a step, and with it its images, until a garbage collection."""
    step = NoiseSpaceAdaptation(restorer, unet, weight_schedule=weight_schedule)
    gc.collect()
    gc.disable()
    try:
        output = step(Batch(**batch), draws=draws())
        output.loss.backward()
        left = weakref.ref(output)
        del output
        assert left() is None
    finally:
        gc.enable()


def test_balance_does_not_depend_on_a_loss_scale():
    s, q = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    results = []
    for scale in (1.0, 1024.0):
        a, b, c = measure_gradients(s, q, lambda *norms: None, 0.5)
        loss = a.square().sum() + (b * 3).sin().sum() + (c * 5).cos().sum()
        results.append([g / scale for g in torch.autograd.grad(loss * scale, (s, q))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_generator_decides_everything(restorer, unet, batch):
    step = NoiseSpaceAdaptation(restorer, unet)
    runs = [step(Batch(**batch), generator=torch.Generator().manual_seed(seed)).loss.item() for seed in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2]


def test_per_sample_generators_make_draws_independent_of_the_batch():
    schedule = NoiseSchedule()
    together = schedule.draw((4, 3, 8, 8), generator=[torch.Generator().manual_seed(i) for i in range(4)])
    alone = schedule.draw((1, 3, 8, 8), generator=[torch.Generator().manual_seed(2)])
    for name in ("noise_level", "noise", "swap", "swap_negative"):
        assert torch.equal(getattr(together, name)[2:3], getattr(alone, name))


def test_ablations_change_the_step(restorer, unet, batch):
    no_swap = NoiseSpaceAdaptation(restorer, unet, residual_swap=False)(Batch(**batch), draws=draws(swap_negative=None))
    assert no_swap.losses["noise"] == no_swap.losses["noise_positive"]
    shuffled = NoiseSchedule().draw((64, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    fixed = NoiseSchedule().draw((64, 1, 1, 1), generator=torch.Generator().manual_seed(0), channel_shuffle=False)
    assert 16 < shuffled.swap.sum() < 48 and not fixed.swap.any() and not fixed.swap_negative.any()
    assert not torch.equal(shuffled.swap, shuffled.swap_negative)


def test_warm_up_keeps_the_real_photos_from_the_restorer(restorer, unet, batch):
    step = NoiseSpaceAdaptation(restorer, unet, variant="hybrid", weight_schedule="balanced")
    step(Batch(**batch), draws=draws(), adapt=False).loss.backward()
    warm = gradients(restorer)
    assert all(g.abs().sum() > 0 for g in gradients(unet).values() if g is not None)
    restorer.zero_grad()
    Supervised(restorer)(Batch(batch["synthetic"], batch["clean"])).loss.backward()
    for name, gradient in gradients(restorer).items():
        torch.testing.assert_close(warm[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_warm_up_keeps_no_graph_of_the_restored_real_photos(restorer, unet, batch):
    graphs = []
    restorer.register_forward_hook(lambda module, arguments, out: graphs.append(out.requires_grad))
    NoiseSpaceAdaptation(restorer, unet)(Batch(**batch), draws=draws(), adapt=False)
    assert sorted(graphs) == [False, True]


@pytest.mark.parametrize("variant", ["paired", "extended", "hybrid"])
def test_separate_passes_change_nothing_but_the_batches(restorer, unet, batch, variant):
    batches = []
    unet.register_forward_hook(lambda module, arguments, out: batches.append(out.sample.shape[0]))
    results = []
    for separate in (False, True):
        step = NoiseSpaceAdaptation(restorer, unet, variant=variant, separate_passes=separate)
        step.zero_grad()
        output = step(Batch(**batch), draws=draws())
        output.loss.backward()
        results.append((output.losses, gradients(step), max(batches)))
        batches.clear()
    (losses, grads, together), (separate_losses, separate_grads, apart) = results
    assert apart == 3 and together == (3 if variant == "extended" else 6)
    assert losses.keys() == separate_losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(separate_losses[name], loss, rtol=1e-6, atol=1e-7)
    for name, gradient in grads.items():
        torch.testing.assert_close(separate_grads[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant, weight_schedule", [("paired", "paper"), ("hybrid", "balanced")])
def test_the_step_of_compiled_networks_is_the_step(restorer, unet, batch, variant, weight_schedule):
    step = NoiseSpaceAdaptation(restorer, unet, variant=variant, weight_schedule=weight_schedule)
    results = []
    for compiled in (False, True):
        if compiled:  # as the trainer does; inductor's graphs, less its C++ compiler
            restorer.compile(backend="aot_eager")
            unet.compile(backend="aot_eager")
        step.zero_grad()
        output = step(Batch(**batch), draws=draws())
        output.loss.backward()
        results.append((output.losses, gradients(step)))
    (losses, grads), (compiled_losses, compiled_grads) = results
    for name, loss in losses.items():
        torch.testing.assert_close(compiled_losses[name], loss, rtol=1e-5, atol=1e-6)
    for name, gradient in grads.items():
        torch.testing.assert_close(compiled_grads[name], gradient, rtol=1e-4, atol=1e-6)


def test_batch_statistics_see_one_domain_at_a_time(unet, batch):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.batches = nn.BatchNorm2d(3), []

        def forward(self, x):
            self.batches.append(x.shape[0])
            return x + 0.1 * self.norm(x)

    restorer = Normed()
    NoiseSpaceAdaptation(restorer, unet)(Batch(**batch), draws=draws())
    assert restorer.batches == [3, 3]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"real": torch.rand(2, 3, 16, 16)}, "`real` must be"),
        ({"real": None}, "`real` must be given"),
        ({"synthetic": torch.full(SIZE, float("nan"))}, "`synthetic` holds NaN"),
        ({"clean": torch.zeros(SIZE, dtype=torch.uint8)}, "`synthetic`|`clean` must be floating"),
        ({"draws": draws(noise_level=torch.rand(2))}, "`draws.noise_level`"),
        ({"draws": draws(noise=torch.rand(3, 3, 8, 8))}, "`draws.noise`"),
        ({"draws": draws(swap=torch.zeros(3))}, "`draws.swap`"),
        ({"draws": draws(swap_negative=None)}, "`draws.swap_negative`"),
        ({"draws": draws(noise_level=torch.tensor([0.5, 1.5, 0.5]))}, r"\(0, 1\)"),
    ],
)
def test_wrong_inputs_are_named(restorer, unet, batch, change, message):
    with pytest.raises(ValueError, match=message):
        options = {"draws": change.pop("draws")} if "draws" in change else {}
        NoiseSpaceAdaptation(restorer, unet)(Batch(**{**batch, **change}), **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"variant": "pared"}, "`variant` must be one of"),
        ({"weight_schedule": "cosine"}, "`weight_schedule` must be one of"),
        ({"weight": -1.0}, "`weight` must be"),
        ({"timestep_range": (0, 10)}, "`timestep_range`"),
    ],
)
def test_wrong_options_are_named(restorer, unet, options, message):
    with pytest.raises(ValueError, match=message):
        NoiseSpaceAdaptation(restorer, unet, **options)
