"""Tiles: every pixel once, and the same photo as without them."""

import logging

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.pipelines import tiling
from daa_diffusers.pipelines.tiling import BLEND, Mosaic, is_exact, plan_spans

from .conftest import Brightening, quiet
from .contract import photo

# --- where tiles lie ---


@settings(max_examples=100, deadline=None)
@given(
    length=some.integers(1, 3000),
    tile=some.integers(32, 700),
    multiple=some.sampled_from([1, 2, 8, 16, 64]),
    radius=some.one_of(some.none(), some.integers(0, 140)),
)
def test_tiles_cover_an_axis_and_fade_where_both_are_exact(length, tile, multiple, radius):
    spans = plan_spans(length, tile, multiple, radius)
    assert [spans[0].first, spans[-1].last] == [0, length]
    assert [spans[0].before, spans[-1].after] == [0, 0] and spans[-1].stop == length
    sides = {-(-(span.stop - span.start) // multiple) for span in spans}
    assert len(sides) == 1  # in cells, with the padding of the last: one shape for all
    assert max(sides) * multiple <= max(tile, 2 * multiple)
    for one, other in zip(spans, spans[1:], strict=False):
        assert one.start < other.start and other.start % multiple == 0
        assert one.last == other.first and one.after == other.before > 0
        margin = radius if is_exact(tile, multiple, radius) else 0
        assert other.start + margin <= other.first  # the later tile is exact from here on ...
        assert one.last + one.after <= one.stop - margin  # ... and the earlier up to there
        assert one.first + one.before <= one.last  # at most two tiles meet
    if not is_exact(tile, multiple, radius) and len(spans) > 1:
        overlap = spans[0].stop - spans[1].start
        assert spans[1].before >= overlap // 8  # without exactness, much of the overlap fades


def test_a_tile_that_holds_the_photo_is_the_photo():
    assert plan_spans(500, 504, 8, 66) == [tiling.Span(0, 500, 0, 500)]
    assert len(plan_spans(505, 504, 8, 66)) == 2
    assert len(Mosaic((500, 10_000), None, 8, 66)) == 1


def test_tiles_shrink_to_what_the_photo_needs():
    """Two tiles for 1024 pixels need not be of 1000 each."""
    spans = plan_spans(1024, 1000, 8, 66)
    assert len(spans) == 2 and spans[0].stop == -(-(1024 + 2 * 66 + BLEND) // 16) * 8


@pytest.mark.parametrize("size", [(90, 200), (200, 90)])
def test_the_parts_of_a_mosaic_make_the_photo(size):
    whole = torch.rand(2, 3, *size)
    mosaic = Mosaic(size, 48, 4, 6)
    result = torch.full_like(whole, torch.nan)
    for rows, columns in mosaic:
        tile = whole[:, :, rows.start : rows.stop, columns.start : columns.stop][
            :, :, rows.inside, columns.inside
        ].clone()
        inside = result[:, :, rows.first : rows.last, columns.first : columns.last]
        assert inside.isnan().all()  # each pixel once
        inside.copy_(mosaic.place(tile, rows, columns))
    assert torch.equal(result, whole)  # bit by bit: equals fade into each other without a change


@pytest.mark.parametrize("size", [(90, 200), (200, 90)])
def test_what_differs_fades(size):
    """Tiles of different constants: no step is larger than that of the fading."""
    mosaic = Mosaic(size, 48, 4)
    result = torch.zeros(1, 1, *size)
    for number, (rows, columns) in enumerate(mosaic):
        shape = rows.inside.stop - rows.inside.start, columns.inside.stop - columns.inside.start
        tile = torch.full((1, 1, *shape), float(number % 2))
        result[:, :, rows.first : rows.last, columns.first : columns.last] = mosaic.place(tile, rows, columns)
    steps = [result.diff(dim=dim).abs().max() for dim in (2, 3)]
    assert result.min() == 0 and result.max() == 1
    assert max(steps) <= 1 / (mosaic.spans[0][0].after + 1) + 1e-6


# --- tiled equals whole ---


@pytest.mark.parametrize("checkpoint", ["daa-denoise", "daa-denoise-research"])
def test_bundled_restorers_give_the_same_8_bits_in_tiles(checkpoint):
    bundled = DAARestorationPipeline.from_pretrained(checkpoint)
    bundled.set_progress_bar_config(disable=True)
    degraded = photo(240, 160, top=20, left=60)
    whole = bundled(degraded, output_type="np", tile=None).images
    assert not np.array_equal(whole[0], degraded)
    assert np.array_equal(bundled(degraded, output_type="np", tile=168).images, whole)


@pytest.mark.parametrize("size", [(201, 163), (120, 333), (1, 300), (300, 3)])
@pytest.mark.parametrize("self_ensemble", [False, True])
def test_tiles_of_any_photo_change_nothing(tiled_pipe, size, self_ensemble):
    degraded = np.random.default_rng(0).random((*size, 3), np.float32)
    whole = tiled_pipe(degraded, output_type="np", tile=None, self_ensemble=self_ensemble).images
    tiled = tiled_pipe(degraded, output_type="np", tile=72, self_ensemble=self_ensemble).images
    if min(size) < 4:  # photos thinner than a kernel's vector are added up in another order
        np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)
    else:
        assert np.array_equal(tiled, whole)  # bit by bit, also in floating point


@pytest.mark.parametrize("kind", ["gray", "alpha", "uint16", "batch", "tensors", "pil"])
def test_tiles_of_every_kind_change_nothing(tiled_pipe, kind):
    array = photo(110, 130)
    given, output_type = {
        "gray": (array[:, :, 0], "np"),
        "alpha": (np.dstack([array, array[:, :, 1]]), "np"),
        "uint16": (array.astype(np.uint16) * 257, "np"),
        "batch": (np.stack([array, 255 - array]), "np"),
        "tensors": ([torch.from_numpy(array / 255).permute(2, 0, 1), torch.rand(1, 130, 70)], "pt"),
        "pil": (PIL.Image.fromarray(array).convert("RGBA"), "pil"),
    }[kind]
    whole = tiled_pipe(given, output_type=output_type, tile=None).images
    tiled = tiled_pipe(given, output_type=output_type, tile=96).images
    for one, other in zip(whole, tiled, strict=True):
        if kind == "pil":
            assert one.mode == other.mode
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_colors_of_a_gray_restorer_and_a_signed_range_in_tiles():
    torch.manual_seed(0)
    pipe = quiet(RestorationUNet(channels=1, width=4, depth=2, value_range=[-1, 1]))
    degraded = photo(60, 90)
    assert np.array_equal(
        pipe(degraded, output_type="np", tile=64).images, pipe(degraded, output_type="np", tile=None).images
    )


def test_a_global_view_leaves_no_seams():
    slope = np.linspace(0, 1, 600, dtype=np.float32)[None, :, None].repeat(80, 0)
    tiled = quiet(Brightening())(slope, output_type="np", tile=64).images[0, :, :, 0]
    assert np.abs(np.diff(tiled, axis=1)).max() < 0.006  # in the slope itself 0.0017, between tile means 0.05
    assert np.abs(np.diff(tiled, axis=0)).max() < 1e-6


def test_tiles_below_the_receptive_field_say_so(tiled_pipe, caplog):
    with caplog.at_level(logging.WARNING, logger="daa_diffusers"):
        restored = tiled_pipe(photo(90, 90), output_type="np", tile=40).images
    assert "tiles of 40 px are too small for the restorer's receptive radius of 12 px" in caplog.text
    whole = tiled_pipe(photo(90, 90), output_type="np", tile=None).images
    difference = np.abs(restored.astype(int) - whole)
    assert difference.max() > 0 and difference.mean() < 2


# --- the array to write into ---


@pytest.mark.parametrize("tile", [None, 96])
@pytest.mark.parametrize("shape", [(150, 130, 3), (150, 130, 4), (150, 130)])
def test_restored_pixels_go_straight_into_a_mapped_file(tiled_pipe, tmp_path, shape, tile):
    array = np.resize(photo(150, 130), shape)
    given = np.memmap(tmp_path / "in", np.uint8, "w+", shape=shape)
    given[:] = array
    given.flush()
    read = np.memmap(tmp_path / "in", np.uint8, "r", shape=shape)
    out = np.memmap(tmp_path / "out", np.uint8, "w+", shape=shape)
    images = tiled_pipe(read, output_type="np", tile=tile, out=out).images
    assert images.shape == (1, *shape) and np.may_share_memory(images, out)
    expected = tiled_pipe(array, output_type="np", tile=tile).images[0]
    out.flush()
    assert np.array_equal(np.fromfile(tmp_path / "out", np.uint8).reshape(shape), expected)
    assert np.array_equal(read, array)
    zero = tiled_pipe(read, output_type="np", strength=0, out=out).images[0]
    assert np.array_equal(zero, array) and np.array_equal(out, array)


def test_a_wrong_array_to_write_into_is_refused(tiled_pipe):
    given = photo(20, 30)
    read_only = np.empty_like(given)
    read_only.flags.writeable = False
    for out, error, message in [
        (
            np.empty((20, 31, 3), np.uint8),
            ValueError,
            r"`out` must have the photo's shape \(20, 30, 3\) and dtype uint8",
        ),
        (np.empty((20, 30, 3), np.uint16), ValueError, "dtype uint8, got .*u2"),
        (given, ValueError, "`out` must not share memory with `image`"),
        (read_only, ValueError, "`out` must be writable"),
        ([], TypeError, "`out` must be a numpy array"),
    ]:
        with pytest.raises(error, match=message):
            tiled_pipe(given, output_type="np", out=out)
    for image, output_type in [(PIL.Image.fromarray(given), "np"), (given, "pil"), ([given], "np")]:
        with pytest.raises(TypeError, match='for `output_type` "np" and a single photo given as an array'):
            tiled_pipe(image, output_type=output_type, out=np.empty_like(given))
