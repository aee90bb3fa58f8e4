"""Renoised self-distillation, eq. (7)."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from daa_diffusers import RestorationUNet
from daa_diffusers.degradations.fitting.photo_noise import FlatBlocks
from daa_diffusers.errors import ConfigurationError
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.losses import charbonnier
from daa_diffusers.objectives.renoised import Renoised
from daa_diffusers.objectives.renoising import hiding_deviation, remaining_noise, white_noise_gain
from daa_diffusers.objectives.score import ScoreDistillation
from daa_diffusers.training.loop import Trainer


def restorer(seed=0):
    torch.manual_seed(seed)
    return RestorationUNet(width=4, depth=2)


def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(*(torch.rand(2, 3, 16, 16, generator=generator) for _ in range(3)))


def test_the_loss_is_that_of_eq_7():
    photos, step = batch(), Renoised(restorer(), weight=0.5, sigma_min=20.0, sigma_max=20.0, teacher="start")
    output = step(photos, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    draws = []
    for _ in range(2):  # sigma is drawn before the noise, sample by sample
        torch.rand((), generator=generator)
        draws.append(torch.randn((3, 16, 16), generator=generator))
    teacher = restorer()
    with torch.no_grad():
        target = teacher(teacher(photos.real) + 20 / 255 * torch.stack(draws))
        expected = charbonnier(teacher(photos.synthetic), photos.clean)
        expected += 0.5 * charbonnier(teacher(photos.real), target)
    torch.testing.assert_close(output.loss.detach(), expected, rtol=1e-5, atol=1e-7)


def test_no_gradient_reaches_the_teacher():
    step = Renoised(restorer())
    step(batch(), generator=torch.Generator().manual_seed(0)).loss.backward()
    assert all(p.grad is None for p in step.teacher.parameters())
    assert all(p.grad is not None for p in step.restorer.parameters())


def test_a_disabled_term_restores_no_real_photos_and_trains_as_supervised():
    photos, step, expected = batch(), Renoised(restorer(), weight=0.0), restorer()
    passes = []
    for network in (step.teacher, step.restorer):
        network.register_forward_hook(lambda network, inputs, _: passes.append((network, *inputs)))
    output = step(photos, generator=torch.Generator().manual_seed(0))
    output.loss.backward()
    charbonnier(expected(photos.synthetic), photos.clean).backward()
    assert passes == [(step.restorer, photos.synthetic)] and output.restored_real is None
    for one, other in zip(step.restorer.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_the_teacher_is_the_start_an_average_or_restarts():
    def moved(**options):
        step = Renoised(restorer(), decay=0.5, **options)
        first = [p.clone() for p in step.teacher.parameters()]
        for _ in range(2):
            with torch.no_grad():
                for parameter in step.restorer.parameters():
                    parameter += 1
            step.after_step(10)
        return [float((p - q).mean()) for p, q in zip(step.teacher.parameters(), first, strict=True)]

    for options, expected in (({"teacher": "start"}, 0.0), ({}, 1.25), ({"restart": 2}, 2.0)):
        assert all(abs(change - expected) < 1e-5 for change in moved(**options)), (options, moved(**options))


def test_the_average_lags_by_the_planned_length_of_the_run():
    step = Renoised(restorer(), decay=None)
    first = [p.clone() for p in step.teacher.parameters()]
    with torch.no_grad():
        for parameter in step.restorer.parameters():
            parameter += 1
    step.after_step(8)  # a decay of 0.9
    moved = [float((p - q).mean()) for p, q in zip(step.teacher.parameters(), first, strict=True)]
    assert all(abs(change - 0.1) < 1e-5 for change in moved)


def test_the_noise_is_in_the_value_range_of_the_restorer():
    torch.manual_seed(0)
    wide = Renoised(RestorationUNet(width=4, depth=2, value_range=[-1.0, 1.0]), sigma_min=10.0, sigma_max=20.0)
    assert wide.sigma_range == (20 / 255, 40 / 255)


class Mean(nn.Module):
    """The mean over 5 x 5 pixels: a denoiser, of a kind."""

    def __init__(self, side=5):
        super().__init__()
        self.kernel = nn.Parameter(torch.full((3, 1, side, side), 1 / side**2))

    def forward(self, photo):
        side = self.kernel.shape[-1]
        return F.conv2d(F.pad(photo, (side // 2,) * 4, mode="reflect"), self.kernel, groups=3)


def noise(sigma, blur=1, seed=0, side=256):
    white = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    noise = Mean(blur)(white).detach()[0]
    return sigma / 255 * noise / noise.std()


def smooth_photo(side=256):
    ramp = torch.linspace(0.2, 0.8, side)
    return (ramp[:, None] + ramp[None, :]).expand(3, -1, -1) / 2


@pytest.mark.parametrize("blur, times", [(1, 1.0), (3, 3.0)])
def test_more_white_noise_hides_correlated_noise(blur, times):
    hiding = 255 * hiding_deviation(FlatBlocks.of(smooth_photo() + noise(10, blur)))
    assert hiding == pytest.approx(10 * times, rel=0.25)  # a mean over n x n pixels keeps n times the deviation at 0


def test_the_range_follows_from_what_the_start_leaves():
    clean = torch.stack([smooth_photo(48)] * 4)
    ranges = []
    for sigma in (5, 12):
        step, generator = Renoised(Mean()), torch.Generator().manual_seed(0)
        photos = [smooth_photo() + noise(sigma, 3, seed) for seed in range(3)]
        measured = json.loads(json.dumps(step.measure(iter(photos), clean, generator)))
        assert measured["noise"] == pytest.approx(sigma, rel=0.2) and measured["left"] < measured["noise"]
        step.use_measured(measured)
        ranges.append([255 * s for s in step.sigma_range])
        assert ranges[-1] == pytest.approx([measured["sigma_min"], measured["sigma_max"]])
        assert measured["sigma_max"] == pytest.approx(max(15, 2.5 * measured["hiding"]), rel=0.01)
    assert ranges[1][0] > 2 * ranges[0][0] and ranges[1][1] > 2 * ranges[0][1]


def test_photos_with_white_noise_are_not_renoised(caplog):
    clean = torch.stack([smooth_photo(48)] * 4)
    for blur, weight in ((1, 0.0), (3, 0.7)):
        step, generator = Renoised(Mean(), weight=0.7), torch.Generator().manual_seed(0)
        measured = step.measure([smooth_photo() + noise(12, blur)], clean, generator)
        step.use_measured(measured)
        assert step.weight == weight
        assert ("noise of the real photos is white" in caplog.text) is (blur == 1)
        caplog.clear()


def test_a_given_end_of_the_range_is_kept():
    for given, expected in (
        ({"sigma_min": 20.0}, (20, 20)),
        ({"sigma_max": 4.0}, (4, 4)),
        ({"sigma_min": 5.0, "sigma_max": 6.0}, (5, 6)),
    ):
        step = Renoised(Mean(), **given)
        step.set_range(8.0, 16.0)
        assert [255 * s for s in step.sigma_range] == pytest.approx(expected)


def test_a_restorer_that_is_no_denoiser_is_refused():
    clean = torch.stack([smooth_photo(48)] * 4)
    assert white_noise_gain(Mean(), clean, torch.Generator().manual_seed(0)) > 10
    with pytest.raises(
        ConfigurationError, match="renoised needs a restorer that removes white noise.* reduces it by 0.0"
    ):
        Renoised(Mean(1)).measure([smooth_photo()], clean, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigurationError, match="`real` must hold photos at least 32 pixels .*`sigma_min`"):
        Renoised(Mean()).measure([smooth_photo(16)], clean, torch.Generator().manual_seed(0))


def test_the_smallest_photo_follows_from_the_size_multiple():
    restorer = Mean()
    restorer.size_multiple = 48
    with pytest.raises(ConfigurationError, match="`real` must hold photos at least 48 pixels"):
        remaining_noise(restorer, [smooth_photo(40)])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sigma_max": 300.0}, "`sigma_max` must be above 0 and at most 255, got 300.0"),
        ({"sigma_min": -1.0}, "`sigma_min` must be at least 0 and at most 255, got -1.0"),
        ({"sigma_min": 30.0, "sigma_max": 20.0}, "`sigma_min` must be at least 0 and at most 20, got 30.0"),
    ],
)
def test_a_strength_out_of_range_is_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Renoised(Mean(), **options)


def test_a_run_records_its_range_and_resumes_with_it(tiny_config, tmp_path, caplog):
    photos = tmp_path / "noisy"
    photos.mkdir()
    cat = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1)[:, :128, :128] / 255
    for seed in range(2):
        pixels = ((cat + noise(20, 3, seed, 128)).clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(photos / f"{seed}.png")
    config = tiny_config(objective="renoised", init_from="daa-denoise", real=[str(photos)], patch=32, steps=2)
    with caplog.at_level(logging.INFO):
        trainer = Trainer(config, progress_bar=False)
    assert "renoising: the real photos have noise of" in caplog.text
    trainer.train(stop_after=1)
    file = Path(config.output_dir, "run.json")
    record = json.loads(file.read_text())
    measured = record["measured"]
    assert measured["sigma_max"] > 15 and measured["white_noise_gain"] > 3
    assert [255 * s for s in trainer.bare.sigma_range] == pytest.approx([measured["sigma_min"], measured["sigma_max"]])
    measured["sigma_max"] = 60.0  # not what would be measured now
    file.write_text(json.dumps(record))
    resumed = Trainer(config, progress_bar=False)
    assert 255 * resumed.bare.sigma_range[1] == pytest.approx(60.0)
    resumed.folder.release()


def test_an_objective_without_further_networks_adapts_from_the_first_step(tiny_config):
    config = tiny_config(objective="renoised", sigma_min=5.0, sigma_max=20.0, predictor_warmup_steps=3, steps=3)
    Trainer(config, progress_bar=False).train()
    log = [json.loads(line) for line in Path(config.output_dir, "log.jsonl").read_text().splitlines()]
    assert [line["loss/weight"] for line in log if "loss/weight" in line] == [1.0, 1.0, 1.0]


# --- the score of a noise predictor in place of the second pass ---


class NoiseOf(torch.nn.Module):
    """A noise predictor that knows the photo beneath, and remembers its conditions."""

    def __init__(self, photo):
        super().__init__()
        self.photo = photo

    def forward(self, z, noise_level, *, conditions, swap=None):
        self.conditions = conditions
        g = noise_level[:, None, None, None]
        return SimpleNamespace(sample=(z - g.sqrt() * self.photo) / (1 - g).sqrt())


@pytest.mark.parametrize("conditions", ["none", "restored"])
def test_the_target_is_the_photo_that_the_predictor_sees_in_the_noised_one(conditions):
    photos, step = batch(), ScoreDistillation(restorer(), conditions=conditions, sigma_min=3.0, sigma_max=60.0)
    step.unet = NoiseOf(photos.clean)
    target = step.teach(photos.real, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target, photos.clean, rtol=0, atol=1e-3)
    expected = step.teacher(photos.real) if conditions == "restored" else torch.zeros_like(photos.real)
    assert all(torch.equal(condition, expected) for condition in step.unet.conditions)


def test_the_bundled_predictor_estimates_noise_and_is_not_trained():
    photos, step = batch(), ScoreDistillation(restorer())
    step(photos, generator=torch.Generator().manual_seed(0)).loss.backward()
    assert all(p.grad is None for p in step.unet.parameters()) and not step.train().unet.training
    clean = torch.from_numpy(skimage.data.astronaut()[:64, 180:244] / 255).float().permute(2, 0, 1)[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros_like(clean)
    level = torch.tensor([1 / (1 + (25 / 255) ** 2)])
    found = step.unet(level.sqrt() * (clean + 25 / 255 * noise), level, conditions=(nothing, nothing)).sample
    assert (found - noise).square().mean() < 0.35  # of 1


def test_no_start_is_too_little_of_a_denoiser_for_it():
    step = ScoreDistillation(nn.Conv2d(3, 3, 1), sigma_min=5.0, sigma_max=25.0)
    assert step.measure([], torch.rand(1, 3, 16, 16), torch.Generator()) == {}


def test_a_predictor_of_another_range_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"`noise_predictor_from`: .* in \[0.0, 1.0\], the restorer is for photos in"
    ):
        ScoreDistillation(RestorationUNet(width=4, depth=2, value_range=(-1.0, 1.0)))
