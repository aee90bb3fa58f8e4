"""Seconds and peak memory of one joint step, forward and backward, at the official size.

    python benchmarks/joint_step.py [--preset paper] [--batch 2] [--patch 128] [--threads 2]

Reference, measured once with the official implementation on 2 cores in float32: about 15 s and 5.5 GB (batch 2, patch
128).
"""

import argparse
import resource
import time

import torch

from daa_diffusers import DAAUNet2DConditionModel, NoiseSpaceAdaptation, RestorationUNet
from daa_diffusers.training.memory import keep_freed_memory

REFERENCE_SECONDS, REFERENCE_GB = 15.0, 5.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    restorer = RestorationUNet.from_preset(arguments.preset)
    step = NoiseSpaceAdaptation(restorer, DAAUNet2DConditionModel.from_preset(arguments.preset))
    step = step.train()
    keep_freed_memory()  # as the trainer does
    shape = (arguments.batch, 3, arguments.patch, arguments.patch)
    images = [torch.rand(shape) for _ in range(3)]
    seconds = []
    for _ in range(1 + arguments.repeats):  # the first one warms up allocators
        start = time.perf_counter()
        step(*images).loss.backward()
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{arguments.preset}, batch {arguments.batch}, patch {arguments.patch}, {arguments.threads} threads, float32")
    print(f"joint step: {best:.1f} s ({best / REFERENCE_SECONDS:.2f} of the reference at the official size)")
    print(f"peak memory of the process: {peak:.1f} GB ({peak / REFERENCE_GB:.2f} of the reference)")


if __name__ == "__main__":
    main()
