"""Renoised self-distillation, eq. (7)."""

import torch

from daa_diffusers import RestorationUNet
from daa_diffusers.objectives.base import Batch
from daa_diffusers.objectives.losses import charbonnier
from daa_diffusers.objectives.renoised import Renoised


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


def test_the_teacher_is_the_start_an_average_or_restarts():
    def moved(**options):
        step = Renoised(restorer(), decay=0.5, **options)
        first = [p.clone() for p in step.teacher.parameters()]
        for _ in range(2):
            with torch.no_grad():
                for parameter in step.restorer.parameters():
                    parameter += 1
            step.after_step()
        return [float((p - q).mean()) for p, q in zip(step.teacher.parameters(), first, strict=True)]

    for options, expected in (({"teacher": "start"}, 0.0), ({}, 1.25), ({"restart": 2}, 2.0)):
        assert all(abs(change - expected) < 1e-5 for change in moved(**options)), (options, moved(**options))


def test_the_noise_is_in_the_value_range_of_the_restorer():
    torch.manual_seed(0)
    wide = Renoised(RestorationUNet(width=4, depth=2, value_range=[-1.0, 1.0]), sigma_min=10.0, sigma_max=20.0)
    assert wide.sigma_range == (20 / 255, 40 / 255)
