"""Memory of training: the estimate of `--dry-run` beside the peak of a real run, each in a process of its own.

    python benchmarks/memory.py             # some minutes on two cores, 8 GB
    python benchmarks/memory.py tiny:64:4   # preset:patch:batch_size

A run takes three steps on photos of scikit-image; its peak is the largest resident set (`ru_maxrss`). Prints a table.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

CASES = ("tiny:64:4", "small:64:8", "adapt:48:6", "adapt:128:6", "tiny:256:2", "tiny:400:1")
GIB = 2**30


def write_photos(folder: Path) -> None:
    """Four clean and four noisy photos of 512 x 512 pixels, in folders of their own."""
    draws = np.random.default_rng(0)
    photo = skimage.data.astronaut()
    for name in ("clean", "real"):
        (folder / name).mkdir()
    for turns in range(4):
        noisy = np.rot90(photo, turns) + draws.normal(0, 20, photo.shape)
        Image.fromarray(np.rot90(photo, turns)).save(folder / "clean" / f"{turns}.png")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "real" / f"{turns}.png")


def child(mode: str, case: str, folder: Path) -> float:
    """GiB that are estimated ("estimate") or taken ("run")."""
    from daa_diffusers.models.restorer import RestorerContract
    from daa_diffusers.training import setup
    from daa_diffusers.training.config import resolve
    from daa_diffusers.training.loop import train
    from daa_diffusers.training.memory_need import memory_need

    preset, patch, batch_size = case.split(":")
    options = {"preset": preset, "patch": int(patch), "batch_size": int(batch_size), "steps": 3, "report_to": "none"}
    photos = {"clean": [str(folder / "clean")], "real": [str(folder / "real")]}
    config = resolve({**options, **photos, "output_dir": str(folder / "run"), "validate_every": 0}).check()
    if mode == "run":
        train(config, progress_bar=False)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    model = setup.prepare_networks(config, setup.build_model(config))
    sources = setup.open_all_sources(config, RestorerContract.of(model.restorer).channels)
    need = memory_need(config, model, [source for each in sources.values() for source in each])
    return (need.process + need.weights + need.activations + need.photos) / GIB


def main(cases: list[str]) -> None:
    print("| preset | patch | batch | estimated GiB | peak GiB | estimate / peak |\n|---|---|---|---|---|---|")
    for case in cases:
        found = []
        for mode in ("estimate", "run"):
            with tempfile.TemporaryDirectory() as folder:
                write_photos(Path(folder))
                command = [sys.executable, __file__, "--child", mode, case, folder]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(float(done.stdout.split()[-1]))
        estimated, peak = found
        print(f"| {case.replace(':', ' | ')} | {estimated:.2f} | {peak:.2f} | {estimated / peak:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(child(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
    else:
        main(sys.argv[1:] or list(CASES))
