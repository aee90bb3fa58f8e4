"""Memory of tiles: measured, bounded, and halved where it runs out."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from daa_diffusers import RestorationUNet
from daa_diffusers.pipelines import tiling
from daa_diffusers.pipelines.tiling import auto_tile, bytes_per_pixel, halved

from .conftest import Brightening, quiet
from .contract import photo

ROOT = Path(__file__).resolve().parents[2]


# --- memory ---


class Hungry(nn.Module):
    """Asks for more memory than there is, for more than 64 x 64 pixels."""

    receptive_radius = 0
    size_multiple = 8

    def forward(self, x):
        if x.shape[2] * x.shape[3] > 64 * 64:
            torch.empty(2**60, dtype=torch.uint8)
        return 1 - x


def test_tiles_are_halved_when_memory_runs_out(caplog):
    pipe = quiet(Hungry())
    pipe._progress_bar_config = {"file": io.StringIO()}
    given = photo(200, 150)
    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        restored = pipe(given, output_type="np").images[0]
    assert np.array_equal(restored, 255 - given)
    sizes = [record.args[1] for record in caplog.records]
    assert sizes == [96, 48]  # 200 does not fit, nor does 96
    shown = pipe._progress_bar_config["file"].getvalue()
    last = shown.rstrip().rsplit("\r", 1)[-1]
    done, total = last.split("|")[-1].split()[0].split("/")
    assert done == total and int(total) > 10  # counts tiles, those of the last try
    with pytest.raises(RuntimeError, match="allocate|memory"):
        pipe(given, tile=None)


def test_a_restorer_that_fails_otherwise_is_not_tried_again():
    class Broken(nn.Module):
        calls = 0

        def forward(self, x):
            Broken.calls += 1
            raise RuntimeError("a broken kernel")

    with pytest.raises(RuntimeError, match="a broken kernel"):
        quiet(Broken())(photo(100, 100))
    assert Broken.calls == 1


def test_when_not_even_the_smallest_tile_fits_the_error_comes_through():
    class Starving(nn.Module):
        def forward(self, x):
            return torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(RuntimeError, match="allocate|memory"):
        quiet(Starving())(photo(100, 100))
    assert halved(None, (100, 100), 8) == 48 and halved(48, (100, 100), 8) is None


def test_the_memory_of_a_pass_is_measured():
    small, large = (RestorationUNet(width=width, depth=3) for width in (8, 16))
    cpu = torch.device("cpu")
    a, b = (bytes_per_pixel(model, 3, cpu, torch.float32) for model in (small, large))
    assert 1.7 < b / a < 2.1
    # at the first level: the skip connection, both halves of the concatenation, what comes and what goes
    assert 5 * 8 * 4 < a < 10 * 8 * 4
    assert bytes_per_pixel(small.bfloat16(), 3, cpu, torch.bfloat16) < 0.7 * a


@pytest.mark.parametrize(
    ("folder", "names", "cache"),
    [
        (".", ("memory.max", "memory.current"), "inactive_file"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ],
)
def test_a_containers_limit_bounds_the_free_memory(tmp_path, folder, names, cache):
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    for name, text in (*zip(names, ("9000", "5000"), strict=True), ("memory.stat", f"anon 1\n{cache} 1000")):
        (group / name).write_text(text + "\n")
    cpu = torch.device("cpu")
    assert tiling.free_memory(cpu, tmp_path) == 5000  # cached files are given back
    (group / names[0]).write_text("max\n")
    assert tiling.free_memory(cpu, tmp_path) > 2**20


def test_the_automatic_tile_follows_the_free_memory(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2 * 64 * 64 * 1000)
    assert auto_tile(1000.0, cpu, 8) == 64
    assert auto_tile(1500.0, cpu, 8) == 48
    assert auto_tile(1e9, cpu, 8) == tiling.MIN_TILE
    monkeypatch.undo()
    assert tiling.free_memory(cpu) > 2**20
    assert auto_tile(1000.0, cpu, 8) ** 2 * 1000 <= tiling.CPU_BYTES


def test_photos_up_to_a_megapixel_are_restored_whole(monkeypatch):
    pipe = quiet(Brightening())
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2**22)
    seen = []

    def count(pipeline, step, timestep, kwargs):
        seen.append((step, kwargs["indices"].tolist()))

    options = {"callback_on_step_end": count, "callback_on_step_end_tensor_inputs": ["indices"], "output_type": "np"}
    pipe([np.zeros((1024, 1024), np.uint8), np.zeros((4, 5), np.uint8)], **options)
    assert seen == [(0, [0]), (1, [1])]
    seen.clear()
    pipe([np.zeros((1024, 1032), np.uint8)], **options)
    assert len(seen) > 10 and seen[-1] == (len(seen) - 1, [0])  # each tile is a pass


@pytest.mark.parametrize("tile", [0, 31, -1, 1.5, "big", True])
def test_a_bad_tile_is_named_with_what_would_be_right(tiled_pipe, tile):
    with pytest.raises(ValueError, match='`tile` must be "auto", None or at least 32 pixels, got'):
        tiled_pipe(photo(4, 4), tile=tile)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_photo(tmp_path):
    """From a mapped file to a mapped file; the pages of both count, 6 bytes a pixel."""
    peaks = []
    for megapixels in (4, 16):
        command = [sys.executable, str(ROOT / "benchmarks/inference.py"), "--child", str(megapixels)]
        done = subprocess.run([*command, "--output_dir", str(tmp_path)], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split('"peak MiB": ')[1].split(",")[0]))
    assert peaks[1] - peaks[0] < 12 * 6 + 64
    assert peaks[1] < 2048 - 6 * 84
