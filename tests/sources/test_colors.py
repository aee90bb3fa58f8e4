"""Random colors of clean patches: ranges, dependence on the seed alone, and the share of changed patches."""

import numpy as np
import torch
from PIL import Image

from daa_diffusers.degradations.draws import generator_for
from daa_diffusers.degradations.gaussian import BlindGaussian
from daa_diffusers.sources.colors import random_colors
from daa_diffusers.sources.sampling import TrainingPatches
from daa_diffusers.sources.specs import PhotoFolder


def test_colors_are_in_range_and_vary():
    patch = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    results = [random_colors(patch, generator_for(0, n)) for n in range(200)]
    assert all(result.min() >= 0 and result.max() <= 1 for result in results)
    means = torch.tensor([float(result.mean()) for result in results])
    assert means.min() < 0.25 and means.max() > 0.5  # dark scenes and bright ones
    saturations = torch.stack([(result.amax(0) - result.amin(0)).mean() for result in results])
    assert saturations.max() > 4 * saturations.min()
    assert torch.equal(results[7], random_colors(patch, generator_for(0, 7)))


def test_gray_patches_stay_gray():
    result = random_colors(torch.full((1, 4, 4), 0.5), generator_for(0, 1))
    assert result.shape == (1, 4, 4) and torch.all(result == result[0, 0, 0])


def test_the_share_of_patches_with_random_colors(tmp_path):
    Image.fromarray(np.full((20, 20, 3), (180, 90, 40), np.uint8)).save(tmp_path / "photo.png")

    def clean(share):
        options = {"patch": 8, "length": 200, "seed": 0, "clean_color": share}
        dataset = TrainingPatches([PhotoFolder(tmp_path)], BlindGaussian(0, 0), **options)
        return [dataset[n]["clean"] for n in range(200)]

    original = torch.tensor([180, 90, 40])[:, None, None] / 255
    changed = [not torch.allclose(patch, original.expand_as(patch), atol=1e-6) for patch in clean(0.5)]
    assert 70 <= sum(changed) <= 130
    assert all(torch.allclose(patch, original.expand_as(patch)) for patch in clean(0.0))
