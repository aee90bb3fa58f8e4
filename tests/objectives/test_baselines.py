"""The baselines: each follows its paper's equations and adapts the restorer."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F

from daa_diffusers import RestorationUNet
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.losses import charbonnier
from daa_diffusers.objectives.mean_teacher import MeanTeacher, apply_view, undo_view
from daa_diffusers.objectives.neighbor2neighbor import Neighbor2Neighbor, draw_neighbors, subsample
from daa_diffusers.objectives.pixel_adversarial import PixelAdversarial
from daa_diffusers.objectives.recorrupted import RecorruptedToRecorrupted
from daa_diffusers.objectives.registry import OBJECTIVES, build_objective

from .conftest import NAMES, gradients, restorer


def generators(batch: int = 2, first: int = 0) -> list[torch.Generator]:
    return [generator_for(0, "test", number) for number in range(first, first + batch)]


@pytest.mark.parametrize("name", NAMES)
def test_real_photos_reach_the_restorer_by_the_weight(batch, name):
    """Of two steps that differ in the weight alone, the gradients differ; without adaptation it is that of L_pair."""
    found = {}
    for weight in (0.0, 1.0):
        step = build_objective({"type": name, "weight": weight}, restorer())
        output = step(Batch(**batch), generator=generators())
        output.loss.backward()
        found[weight] = gradients(step.restorer)
        assert all(value.isfinite().all() for value in output.losses.values())
        for network in step.networks.values():
            assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    step = build_objective({"type": name, "weight": 1.0}, restorer())
    step(Batch(**batch), generator=generators(), adapt=False).loss.backward()
    alone = restorer()
    charbonnier(alone(batch["synthetic"]), batch["clean"]).backward()
    assert (found[1.0] - found[0.0]).norm() > 1e-4 * found[0.0].norm()
    for unmoved in (found[0.0], gradients(step.restorer)):
        torch.testing.assert_close(unmoved, gradients(alone), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_its_own_generator_alone(batch, name):
    step = build_objective({"type": name, "weight": 1.0}, restorer())
    whole = step(Batch(**batch), generator=generators())
    again = step(Batch(**batch), generator=generators())
    torch.manual_seed(99)
    parts = [
        step(Batch(**{key: value[n : n + 1] for key, value in batch.items()}), generator=generators(1, first=n))
        for n in range(2)
    ]
    if name != "pixel_adversarial":  # its spectral norms are found by iteration, a little better each time
        assert torch.equal(whole.loss, again.loss)
    torch.testing.assert_close(whole.restored_real, torch.cat([p.restored_real for p in parts]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_constructor_arguments_have_defaults_and_are_plain(name):
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    assert {p.kind for p in parameters if p.name != "restorer"} == {
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    }
    defaults = OBJECTIVES[name].defaults()
    assert {"weight", "weight_schedule", "charbonnier_eps"} < set(defaults)
    assert all(isinstance(default, int | float | str | None) for default in defaults.values())


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_one_backward_pass_trains_discriminator_and_restorer(batch, kind):
    """The discriminator's gradient is that of its own loss, and does not know of the restorer's."""
    step = PixelAdversarial(restorer(), weight=3.0, weight_schedule="constant", kind=kind, width=8).eval()
    output = step(Batch(**batch))
    output.loss.backward()
    alone = copy.deepcopy(step.discriminator)
    alone.zero_grad()
    u, q = alone(batch["unpaired_clean"]), alone(output.restored_real)
    if kind == "hinge":
        loss = F.relu(1 - u).mean() + F.relu(1 + q).mean()
    else:
        loss = (u - 1).square().mean() + q.square().mean()
    loss.backward()
    torch.testing.assert_close(output.losses["discriminator"], loss.detach())
    torch.testing.assert_close(gradients(step.discriminator), gradients(alone))


def test_the_discriminator_prefers_clean_photos_after_a_few_steps(batch):
    step = PixelAdversarial(restorer(), weight=0.0, width=8)
    optimizer = torch.optim.Adam(step.discriminator.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        output = step(Batch(**batch))
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.losses["discriminator"]))
    assert losses[-1] < 0.6 * losses[0]


def test_neighbors_are_two_adjacent_pixels_of_a_cell():
    index = draw_neighbors((3, 3, 32, 32), generators(3))
    first, second = index.unbind(1)  # (3, 16, 16)
    rows, columns = first // 2 - second // 2, first % 2 - second % 2
    assert torch.equal(rows.abs() + columns.abs(), torch.ones_like(first))
    assert all(0.15 < float((first == place).float().mean()) < 0.35 for place in range(4))


def test_subsampling_takes_the_pixel_that_the_index_names():
    photos = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    for place in range(4):
        taken = subsample(photos, torch.full((2, 2, 3), place))
        assert torch.equal(taken, photos[..., place // 2 :: 2, place % 2 :: 2])


def test_neighbor2neighbor_follows_its_equation(batch):
    step = Neighbor2Neighbor(restorer(), weight=1.0, weight_schedule="constant", gamma=3.0)
    output = step(Batch(**batch), generator=generators())
    x, f = batch["real"], step.restorer
    first, second = draw_neighbors(x.shape, generators()).unbind(1)
    predicted, target = f(subsample(x, first)), subsample(x, second)
    rest = predicted - target - (subsample(f(x), first) - subsample(f(x), second))
    expected = (predicted - target).square().mean() + 3 * rest.square().mean()
    torch.testing.assert_close(output.losses["adaptation"], expected.detach())
    assert step.size_multiple == 8


def test_recorrupted_copies_have_the_photos_own_noise():
    step = RecorruptedToRecorrupted(restorer(), noise_max=60.0)
    photo = torch.full((2, 3, 48, 48), 0.5)
    sigmas = torch.tensor([0.06, 0.12])
    noisy = photo + sigmas[:, None, None, None] * torch.randn(photo.shape, generator=generators()[0])
    z = step.noise(noisy, generators())
    assert z.std((1, 2, 3)).tolist() == pytest.approx(sigmas.tolist(), rel=0.25)
    assert float(F.cosine_similarity(z.flatten(), (noisy - photo).flatten(), dim=0).abs()) < 0.05
    capped = RecorruptedToRecorrupted(restorer(), noise_max=10.0).noise(noisy, generators())
    assert float(capped[1].std()) <= 10 / 255 + 1e-6 and torch.equal(capped[0], z[0] * (10 / 255 / z[0].std()))


def test_recorrupted_noise_scales_with_the_value_range():
    wide = RestorationUNet(width=8, depth=3, value_range=(-1.0, 1.0))
    photo = 0.5 + 0.05 * torch.randn(1, 3, 32, 32, generator=generators()[0])
    narrow = RecorruptedToRecorrupted(restorer()).noise(photo, generators(1))
    torch.testing.assert_close(RecorruptedToRecorrupted(wide).noise(2 * photo - 1, generators(1)), 2 * narrow)


def test_recorrupted_follows_its_equation(batch):
    step = RecorruptedToRecorrupted(restorer(), weight=1.0, weight_schedule="constant", alpha=0.4)
    output = step(Batch(**batch), generator=generators())
    z = step.noise(batch["real"], generators())
    expected = (step.restorer(batch["real"] + 0.4 * z) - (batch["real"] - z / 0.4)).square().mean()
    torch.testing.assert_close(output.losses["adaptation"], expected.detach())


@pytest.mark.parametrize("view", range(8))
def test_a_view_can_be_undone(view):
    photo = torch.rand(1, 3, 4, 6)
    assert torch.equal(undo_view(apply_view(photo, view), view), photo)
    assert view == 0 or not torch.equal(apply_view(photo, view), photo)


def test_the_teacher_follows_the_restorer_by_its_decay(batch):
    step = MeanTeacher(restorer(), decay=0.75, views=8).train()
    before = [p.clone() for p in step.teacher.parameters()]
    assert not step.teacher.training and all(not p.requires_grad for p in step.teacher.parameters())
    with torch.no_grad():
        for parameter in step.restorer.parameters():
            parameter += 1.0
    step.after_step(10)
    for theirs, old in zip(step.teacher.parameters(), before, strict=True):
        torch.testing.assert_close(theirs, old + 0.25)
    assert {name.split(".")[0] for name in step.state_dict()} == {"restorer", "teacher"}


def test_the_teacher_of_symmetric_views_does_not_depend_on_orientation(batch):
    step = MeanTeacher(restorer(depth=2), views=8)
    taught = step.teach(batch["real"])
    torch.testing.assert_close(step.teach(batch["real"].flip(3)), taught.flip(3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("dan", {}, "`objective` must be one of noise_space, .* .did you mean 'dann'"),
        ("dann", {"feature": "conv_out"}, "did you mean 'features'"),
        ("mean_teacher", {"kind": "hinge"}, "`objective` mean_teacher has no option 'kind'"),
        ("renoised", {"sigma_min": 60, "sigma_max": 50}, "`sigma_min` must be at least 0 and at most 50, got 60"),
        ("renoised", {"teacher": "student"}, "`teacher` must be one of start, average"),
        ("dann", {"hidden": 0}, "`hidden` must be at least 1, got 0"),
        ("pixel_adversarial", {"kind": "wasserstein"}, "`kind` must be one of hinge, least_squares"),
        ("neighbor2neighbor", {"gamma": -1}, "`gamma` must be at least 0, got -1"),
        ("recorrupted", {"alpha": 0}, "`alpha` must be above 0, got 0"),
        ("mean_teacher", {"decay": 1.5}, "`decay` must be at least 0 and at most 1, got 1.5"),
        ("mean_teacher", {"views": 2.5}, "`views` must be a whole number, got 2.5"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ConfigurationError, match=message):
        build_objective({"type": name, **options}, restorer())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"real": None}, "`real` must be given"),
        ({"real": torch.zeros(2, 3, 16, 16)}, "`real` must be floating"),
        ({"unpaired_clean": torch.full((2, 3, 32, 32), torch.nan)}, "`unpaired_clean` holds NaN"),
        ({"generator": generators(3)}, "`generator` must be one or 2 generators, got 3"),
    ],
)
def test_wrong_photos_are_named(batch, change, message):
    with pytest.raises(ValueError, match=message):
        options = {"generator": change.pop("generator")} if "generator" in change else {}
        Neighbor2Neighbor(restorer())(Batch(**{**batch, **change}), **options)
