"""Adapt your own network to your photos; see docs/any_restorer.md.

python examples/adapt_your_restorer.py CLEAN_PHOTOS/ MY_NOISY_PHOTOS/ outputs/mine
"""

import sys

from torch import nn

from daa_diffusers import DAARestorationPipeline, ForeignRestorer
from daa_diffusers.training.config import resolve
from daa_diffusers.training.loop import train


class MyDenoiser(nn.Module):
    """Any network that maps a photo to a photo of the same size."""

    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x):
        """Subtracts the predicted noise."""
        return x - self.layers(x)


def main(clean, real, output, **options):
    network = MyDenoiser(width=16)  # with your weights: network.load_state_dict(...)
    restorer = ForeignRestorer.wrap(network, arguments={"width": 16}, value_range=(0, 1))  # checked by test runs
    DAARestorationPipeline(restorer).save_pretrained(f"{output}/start")
    photos = {"clean": [clean], "real": [real], "init_from": f"{output}/start", "output_dir": f"{output}/run"}
    result = train(resolve({"preset": "adapt", **photos, **options}).check())
    pipe = DAARestorationPipeline.from_pretrained(result.pipeline)
    print("adapted:", result.pipeline, pipe.restorer.config.architecture)
    return pipe


if __name__ == "__main__":
    main(*sys.argv[1:4])
