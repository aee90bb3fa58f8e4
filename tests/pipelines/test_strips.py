"""Strips of a large photo: the whole photo's result, in a strip's memory, without computing a pixel twice."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from daa_diffusers import DAARestorationPipeline, FastRestorationUNet, RestorationUNet
from daa_diffusers.models.restorer import RestorerContract
from daa_diffusers.pipelines import run, strips
from daa_diffusers.pipelines.strips import plan_strips, strips_of
from daa_diffusers.pipelines.tiling import LiveBytes

from .conftest import gentle, quiet
from .contract import photo

SHAPES = {
    "fast": lambda: FastRestorationUNet(widths=[16, 32, 48], blocks=[1, 2, 1]),
    "fast, one level": lambda: FastRestorationUNet(widths=[16], blocks=[1], unshuffle=2),
    "fast, no blocks": lambda: FastRestorationUNet(widths=[16, 32], blocks=[0, 0], unshuffle=1),
    "plain": lambda: RestorationUNet(width=16, depth=3),
    "plain, one level": lambda: RestorationUNet(width=16, depth=1),
    "gray": lambda: RestorationUNet(width=16, depth=2, channels=1),
}


@pytest.fixture(params=SHAPES)
def network(request):
    torch.manual_seed(0)
    return SHAPES[request.param]().eval()


@pytest.fixture
def small_strips(monkeypatch):
    """Photos of more than 1000 pixels are large, and strips are 16 rows high."""
    monkeypatch.setattr(run, "STRIP_PIXELS", 1000)
    monkeypatch.setattr(strips, "STRIP_PIXELS", 1)
    monkeypatch.setattr(strips, "MIN_ROWS", 16)


@pytest.mark.parametrize("heights", [(1,), (2, 1), (5,), (100,)])
@pytest.mark.parametrize("mixed", [False, True])
def test_strips_of_any_height_give_the_whole(network, heights, mixed):
    multiple = network.size_multiple
    batch = torch.rand(2, network.config.channels, 13 * multiple, 4 * multiple)
    known, first = strips_of(network)(network, batch.shape[2]), 0
    found = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        expected = network(batch.contiguous(memory_format=torch.channels_last))
        while first < batch.shape[2]:
            stop = first + multiple * heights[len(found) % len(heights)]
            found.append(known.push(batch[:, :, first:stop]))
            first = stop
    given, restored = (torch.cat([each[i].clone() for each in found if each], 2) for i in (0, 1))
    assert restored.dtype == expected.dtype and restored.shape == expected.shape
    # kernels differ in the last bits by the size of what they are given
    assert torch.allclose(restored, expected, rtol=0, atol=0.05 if mixed else 1e-4)
    assert given.shape == batch.shape


@pytest.mark.parametrize("options", [{}, {"strength": 0.4}, {"guard": True}, {"batch_size": 1}])
@pytest.mark.parametrize("size", [(90, 70), (33, 129), (130, 41)])
def test_a_large_photo_is_restored_as_the_whole(network, size, options, small_strips):
    pipe = quiet(network)
    color = photo(*size)
    for given in (color, color.astype(np.uint16) * 257, color[:, :, 0], np.concatenate([color, color[:, :, :1]], 2)):
        in_strips = pipe(given, output_type="np", **options).images
        whole = pipe(given, output_type="np", tile=None, **options).images
        assert in_strips.dtype == given.dtype and in_strips.shape == whole.shape
        step = 1 if given.dtype == np.uint8 else 3  # of 65535
        assert np.abs(in_strips.astype(int) - whole.astype(int)).max() <= step


def test_strips_are_read_from_a_file_and_written_into_one(tmp_path, small_strips):
    pipe = quiet(gentle(RestorationUNet(width=4, depth=2)))
    given = np.memmap(tmp_path / "in", np.uint8, "w+", shape=(90, 70, 3))
    given[:] = photo(90, 70)
    out = np.memmap(tmp_path / "out", np.uint8, "w+", shape=given.shape)
    calls = []
    pipe(
        given, output_type="np", out=out, callback_on_step_end=lambda pipe, step, timestep, kwargs: calls.append(kwargs)
    )
    whole = pipe(given, output_type="np", tile=None).images[0]
    assert np.abs(out.astype(int) - whole).max() <= 1
    assert len(calls) == 6 and sum(call["restored"].shape[2] for call in calls) == 90


def test_nothing_is_computed_twice(small_strips):
    pipe = quiet(RestorationUNet(width=4, depth=3))
    given, operations = photo(120, 90), {}
    for tile in (None, "auto", 48):
        with FlopCounterMode(display=False) as counter:
            pipe(given, output_type="np", tile=tile)
        operations[tile] = counter.get_total_flops()
    # measuring the memory of a pass takes one of its own
    probe = FlopCounterMode(display=False)
    with probe, torch.no_grad():
        pipe.restorer(torch.zeros(1, 3, 128, 128))
    assert operations["auto"] - probe.get_total_flops() <= 1.06 * operations[None] < operations[48]


def test_memory_is_that_of_a_strip():
    network = RestorationUNet(width=8, depth=2).eval()

    def peak(height):
        known = strips_of(network)(network, height)
        with LiveBytes() as watch, torch.no_grad():
            for _ in range(0, height, 16):
                known.push(torch.zeros(1, 3, 16, 64))
        return watch.peak

    assert peak(1600) < 1.05 * peak(160)


def test_memory_of_strips_is_free_when_they_are_done():
    network = RestorationUNet(width=4, depth=2).eval()
    known = strips_of(network)(network, 64)
    with torch.no_grad():
        known.push(torch.zeros(1, 3, 32, 64))
    memory = weakref.ref(known.photo)
    gc.disable()  # which would find cycles of references, some time later
    try:
        del known
        assert memory() is None
    finally:
        gc.enable()


def test_broken_pixels_are_reported_and_none_is_returned(small_strips):
    pipe = quiet(RestorationUNet(width=4, depth=2))
    with torch.no_grad():
        pipe.restorer.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="photo 0"):
        pipe(photo(90, 70))


@pytest.mark.parametrize("kind", ["aligned corners", "hook", "offloaded", "parametrized", "float64", "ensemble"])
def test_what_is_not_known_is_restored_in_tiles(kind, small_strips):
    network = RestorationUNet(width=4, depth=2, align_corners=kind == "aligned corners").eval()
    if kind == "hook":
        network.conv_out.register_forward_hook(lambda module, args, output: output)
    if kind == "offloaded":
        network.conv_out.forward = network.conv_out.forward  # as accelerate and diffusers do
    if kind == "parametrized":
        torch.nn.utils.parametrize.register_parametrization(network.conv_out, "bias", torch.nn.Identity())
    pipe = DAARestorationPipeline(network.to(torch.float64) if kind == "float64" else network)
    caller = run.Run(pipe, RestorerContract.of(pipe.restorer), "auto", kind == "ensemble", None, None, None, ())
    assert not caller._takes_strips((90, 70), 1)


@pytest.mark.parametrize("size", [(1, 5000), (1000, 1000), (8192, 700), (65, 9000)])
def test_strips_cover_the_photo_and_the_last_one_can_be_padded(size):
    planned = plan_strips(size, 8)
    assert [one.start for one in planned] == [0, *(one.stop for one in planned[:-1])]
    assert planned[-1].stop == size[0] and all(one.start % 8 == 0 for one in planned)
    assert len(planned) == 1 or planned[-1].stop - planned[-1].start >= 16
