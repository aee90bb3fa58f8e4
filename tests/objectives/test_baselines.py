"""The baselines: each follows its paper's equations, adapts the restorer, and trains under the common loop."""

import copy
import inspect
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from daa_diffusers import RestorationUNet
from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.dann import Dann, reverse_gradient
from daa_diffusers.objectives.losses import charbonnier
from daa_diffusers.objectives.mean_teacher import MeanTeacher, turned, unturned
from daa_diffusers.objectives.neighbor2neighbor import Neighbor2Neighbor, draw_neighbors, subsample
from daa_diffusers.objectives.pixel_adversarial import PixelAdversarial
from daa_diffusers.objectives.real_term import RealTermObjective
from daa_diffusers.objectives.recorrupted import RecorruptedToRecorrupted
from daa_diffusers.objectives.registry import OBJECTIVES, build_objective
from daa_diffusers.training.config import parse_arguments, resolve
from daa_diffusers.training.config.objective import nest_objective
from daa_diffusers.training.loop import train
from daa_diffusers.training.planning import describe
from daa_diffusers.training.setup import build_model

from ..training.test_loop import interrupt_at, state
from ..training.test_processes import exact_config, launch, parameters  # noqa: F401 (a fixture)

NAMES = [name for name, objective in OBJECTIVES.items() if issubclass(objective, RealTermObjective)]


def restorer(seed: int = 0, depth: int = 3) -> RestorationUNet:
    torch.manual_seed(seed)
    return RestorationUNet(width=8, depth=depth)


def generators(batch: int = 2, first: int = 0) -> list[torch.Generator]:
    return [generator_for(0, "test", number) for number in range(first, first + batch)]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    clean, other, real = F.interpolate(torch.rand(6, 3, 4, 4, generator=generator), 32, mode="bilinear").split(2)
    noise = torch.randn(2, 2, 3, 32, 32, generator=generator) * 0.08
    return {"synthetic": clean + noise[0], "clean": clean, "real": real + noise[1], "unpaired_clean": other}


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


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
    assert all(isinstance(p.default, int | float | str | None) for p in parameters if p.name != "restorer")
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p.name != "restorer")


@pytest.mark.parametrize("progress, share", [(0.0, 0.0), (0.5, 2 / (1 + math.exp(-5)) - 1), (1.0, 0.99991)])
def test_the_ramp_of_dann(progress, share):
    step = Dann(restorer(), weight=2.0)
    assert step.weight_at(progress) == pytest.approx(2 * share, abs=1e-4)
    assert Dann(restorer(), weight=2.0, weight_schedule="constant").weight_at(progress) == 2.0


def test_a_reversed_gradient_is_the_negative_one():
    x = torch.ones(3, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, -0.5 * torch.tensor([1.0, 2.0, 3.0]))


def test_dann_classifies_the_bottleneck_and_its_classifier_learns(batch):
    step = Dann(restorer(), weight=0.0, hidden=16)
    assert step.features == "down_blocks.2" and step.classifier[0].in_channels == 32
    shifted = {**batch, "real": batch["real"] * 0.5}
    optimizer = torch.optim.Adam(step.classifier.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        output = step(Batch(**shifted))
        output.loss.backward()
        optimizer.step()
    assert output.losses["domain"] < 0.4 and output.losses["domain_accuracy"] > 0.8


def test_dann_reads_the_features_of_any_restorer(batch):
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 3, padding=1))
    Dann(plain, features="1")(Batch(**batch)).loss.backward()
    for module, options in ((plain, {}), (plain, {"features": "7"}), (restorer(), {"features": "down_block.1"})):
        with pytest.raises(ConfigurationError, match="`features` must name a submodule"):
            Dann(module, **options)


def test_dann_hears_each_pass_once_under_gradient_checkpointing(batch):
    steps = [Dann(restorer(), weight=1.0) for _ in range(2)]
    steps[1].load_state_dict(steps[0].state_dict())
    steps[1].restorer.enable_gradient_checkpointing()
    for step in steps:
        step(Batch(**batch)).loss.backward()
    torch.testing.assert_close(gradients(steps[0]), gradients(steps[1]))


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
def test_a_turned_photo_turns_back(view):
    photo = torch.rand(1, 3, 4, 6)
    assert torch.equal(unturned(turned(photo, view), view), photo)
    assert view == 0 or not torch.equal(turned(photo, view), photo)


def test_the_teacher_follows_the_restorer_by_its_decay(batch):
    step = MeanTeacher(restorer(), decay=0.75, views=8).train()
    before = [p.clone() for p in step.teacher.parameters()]
    assert not step.teacher.training and all(not p.requires_grad for p in step.teacher.parameters())
    with torch.no_grad():
        for parameter in step.restorer.parameters():
            parameter += 1.0
    step.after_step()
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


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_ends_bit_identical(tiny_config, tmp_path, monkeypatch, name):
    options = {"objective": name, "patch": 32, "steps": 4, "learning_rate_schedule": "cosine", "weight": 1.0}
    options["predictor_warmup_steps"] = 1
    whole = train(tiny_config(output_dir=str(tmp_path / "whole"), **options), progress_bar=False)
    config = tiny_config(output_dir=str(tmp_path / "cut"), **options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(config, progress_bar=False)
    cut = train(config, progress_bar=False)
    expected, found = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)
    assert whole.losses == cut.losses
    log = [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]
    losses = [{k: v for k, v in entry.items() if k.startswith("loss/")} for entry in log]
    assert all(math.isfinite(value) for entry in losses for value in entry.values())
    weights = [entry["loss/weight"] for entry in losses if entry]
    # the first step warms up; then the paper's ramp, or the constant weight at once
    assert weights[0] == 0 and weights == sorted(weights) and weights[-1] > 0.5
    further = {
        "dann": {"classifier"},
        "pixel_adversarial": {"discriminator"},
        "mean_teacher": {"teacher"},
        "renoised": {"teacher", "steps_taken"},
    }.get(name, set())
    parts = {key.split(".")[1] for key in found if key.startswith("model.")}
    assert parts == {"restorer", *further}
    start = build_model(config).state_dict()  # the teacher is moved by the loop, not by the optimizer
    moved = {key.split(".")[0] for key, value in start.items() if not torch.equal(value, found[f"model.{key}"])}
    assert moved == parts


def test_a_run_is_selected_by_its_label_free_score(tiny_config):
    config = tiny_config(objective="mean_teacher", patch=32, steps=2, select_by="label_free", health=True)
    result = train(config, progress_bar=False)
    assert math.isfinite(result.best["score"]) and "estimated_gain" in result.health


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one_with_twice_the_batch(exact_config, tmp_path, name):  # noqa: F811
    options = {"objective": name, "patch": 32, "steps": 6, "checkpoint_every": 0}
    one = exact_config("one", batch_size=4, **options)
    two = exact_config("two", batch_size=2, **options)
    train(one, progress_bar=False)
    launch(two, tmp_path)
    found = parameters(two)
    for key, value in parameters(one).items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


def test_a_dry_run_counts_the_further_networks(tiny_config):
    text = {name: describe(tiny_config(objective=name, patch=32)) for name in ("neighbor2neighbor", "dann")}
    assert "# restorer: " in text["dann"] and "# classifier: 12,481 parameters" in text["dann"]
    assert "# classifier" not in text["neighbor2neighbor"] and "noise predictor:" not in text["dann"]


@pytest.mark.parametrize("name", [name for name in NAMES if OBJECTIVES[name].compares])
def test_a_preset_prepares_real_photos_for_noise_space_adaptation_alone(name):
    config = resolve({"preset": "adapt", "objective": name, "clean": ["c"], "real": ["r"]}).check()
    assert config.objective == {"type": name, **OBJECTIVES[name].defaults()}
    assert (config.patch, config.fit_noise, config.pseudo_clean, config.blend) == (48, 0.0, False, 1.0)
    assert resolve({"preset": "adapt", "objective": name, "weight": 7.0}).objective["weight"] == 7.0


def test_the_command_line_takes_an_objective_with_its_options():
    photos = ["--clean", "c", "--real", "r"]
    for given in (["--objective", "dann", "--hidden", "8"], ["--objective", '{"type": "dann", "hidden": 8}']):
        objective = parse_arguments([*given, *photos]).objective
        assert objective["type"] == "dann" and objective["hidden"] == 8 and objective["weight"] == 0.05


def test_options_of_earlier_versions_are_read():
    flat = resolve({"objective": "dann", "objective_options": {"hidden": 8}, "weight": 2.0}).objective
    assert flat == {"type": "dann", **Dann.defaults(), "hidden": 8, "weight": 2.0}
    assert resolve({"variant": "vanilla", "weight": 0.3}).objective == {"type": "supervised", "charbonnier_eps": 1e-3}
    record = {"objective": "dann", "variant": "paired", "weight": 0.05, "objective_options": {}, "patch": 32}
    assert nest_objective(record, record=True) == {"objective": {"type": "dann", "weight": 0.05}, "patch": 32}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "dan"}, "`objective` must be one of noise_space, renoised"),
        ({"variant": "hybrid"}, "`objective` dann has no option 'variant'"),
        ({"save_noise_predictor": True}, "`save_noise_predictor` needs an `objective` with a noise predictor"),
        ({"weight_schedule": "balanced"}, "`weight_schedule` must be one of paper, constant"),
        ({"objective": {"type": "dann", "hiden": 8}}, "no option 'hiden' .did you mean 'hidden'"),
        ({"objective": {"type": "noise_space", "hidden": 8}}, "`objective` noise_space has no option 'hidden'"),
        ({"objective": {"type": "noise_space", "variant": "pared"}}, "`variant` must be one of paired, extended"),
        ({"real": []}, "`objective` dann learns from real photos"),
        ({"compile": True}, "`compile` does not work with `objective` dann"),
    ],
)
def test_contradictory_options_are_refused(tiny_config, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_config(**{"objective": "dann", **changes}).check()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "neighbor2neighbor", "patch": 24}, "`patch` must be a multiple of"),
        ({"objective": "recorrupted", "patch": 16}, "`patch` must be at least 32 for recorrupted, got 16"),
        ({"objective": {"type": "dann", "hidden": -1}}, "`hidden` must be at least 1"),
    ],
)
def test_what_does_not_fit_fails_before_anything_is_written(tiny_config, tmp_path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        train(tiny_config(**changes), progress_bar=False)
    assert not (tmp_path / "run").exists()
