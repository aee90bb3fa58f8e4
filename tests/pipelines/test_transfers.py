"""Transfers to a card and back: whole photos, in their own dtype and order, on whatever device."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from daa_diffusers import DAARestorationPipeline, RestorationUNet
from daa_diffusers.pipelines import transfers
from daa_diffusers.pipelines.image_processor import from_batch, read_photos, to_batch
from daa_diffusers.pipelines.run import Run
from daa_diffusers.pipelines.tiling import bytes_per_pixel
from daa_diffusers.pipelines.transfers import download, upload, weights_in_channels_last

from .conftest import Brightening, gentle, quiet
from .contract import photo

CPU = torch.device("cpu")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def kinds():
    """Photos of every dtype that travels: 8 and 16 bits, floats, grayscale, alpha."""
    color = photo(90, 70)
    deep = color.astype(np.uint16) * 257 + 3
    return {
        **{"8 bits": color, "16 bits": deep, "floats": color.astype(np.float32) / 255, "gray": color[:, :, 0]},
        **{"alpha": np.concatenate([color, color[:, :, :1]], 2), "16 bits, gray": deep[:, :, 1]},
    }


@pytest.mark.parametrize("name", kinds())
def test_pixels_come_back_as_they_were_sent_in_several_parts(name, monkeypatch):
    monkeypatch.setattr(transfers, "PART_BYTES", 1000)
    (sent,), _ = read_photos(kinds()[name], 3)
    for part in (sent, sent.crop(slice(3, 61), slice(10, 55))):
        there = upload(part.pixels, CPU, pinned=False)
        assert there.dtype == part.pixels.dtype and torch.equal(there, part.pixels)
        assert there.permute(1, 2, 0).is_contiguous()  # interleaved, as batches are
        back = download(there, pinned=False)
        assert torch.equal(back, part.pixels) and back.permute(1, 2, 0).is_contiguous()
    assert len(list(transfers._parts(sent.pixels.permute(1, 2, 0)))) > 5


@pytest.mark.parametrize("options", [{}, {"tile": 48}, {"guard": True}, {"strength": 0.0}])
@pytest.mark.parametrize("name", kinds())
def test_photos_moved_whole_are_restored_as_those_moved_in_parts(name, options, monkeypatch):
    pipe = quiet(gentle(RestorationUNet(width=4, depth=2)))
    expected = pipe(kinds()[name], output_type="np", **options).images
    start = Run.__init__

    def moving(self, *args):
        start(self, *args)
        self.moves_photos = True  # as on a CUDA device

    monkeypatch.setattr(Run, "__init__", moving)
    moved = pipe(kinds()[name], output_type="np", **options).images
    assert moved.dtype == expected.dtype and np.array_equal(moved, expected)


def test_ordered_weights_are_saved_as_they_were(tmp_path):
    pipe = DAARestorationPipeline(RestorationUNet(width=4, depth=2))
    pipe.save_pretrained(tmp_path / "before")
    weights_in_channels_last(pipe.restorer)
    assert pipe.restorer.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    pipe.save_pretrained(tmp_path / "after")
    before, after = (
        load_file(tmp_path / name / "restorer" / "diffusion_pytorch_model.safetensors") for name in ("before", "after")
    )
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_the_memory_of_a_restorer_is_measured_once():
    class Counting(Brightening):
        calls = 0

        def forward(self, x):
            Counting.calls += 1
            return super().forward(x)

    restorer = Counting()
    values = {bytes_per_pixel(restorer, 3, CPU, torch.float32) for _ in range(3)}
    assert len(values) == 1 and Counting.calls == 1


# --- where there is a card ---


@on_cuda
@pytest.mark.parametrize("options", [{}, {"tile": 48}, {"guard": True}])
@pytest.mark.parametrize("name", kinds())
def test_a_card_restores_photos_as_the_processor_does(name, options):
    torch.manual_seed(0)
    pipe = quiet(gentle(RestorationUNet(width=4, depth=2)))
    expected = pipe(kinds()[name], output_type="np", **options).images
    restored = pipe.to("cuda")(kinds()[name], output_type="np", **options).images
    assert restored.dtype == expected.dtype and restored.shape == expected.shape
    top = 1.0 if restored.dtype.kind == "f" else float(np.iinfo(restored.dtype).max)
    assert np.abs(restored.astype(float) - expected).max() <= 0.01 * top  # TF32
    if name == "alpha":
        assert np.array_equal(restored[..., 3], expected[..., 3])


@on_cuda
@pytest.mark.parametrize("name", kinds())
def test_batches_on_a_card_are_those_on_the_processor(name):
    photos, _ = read_photos(kinds()[name], 3)
    here, there = (to_batch(photos, 3, (0.0, 1.0), torch.device(device)) for device in ("cpu", "cuda"))
    assert torch.allclose(there.cpu(), here, rtol=0, atol=1e-6)
    (back,) = from_batch(photos, there, 3, (0.0, 1.0))
    assert torch.equal(back.pixels, photos[0].pixels)


@on_cuda
def test_images_come_from_a_card_and_tensors_stay_there():
    pipe = quiet(Brightening()).to("cuda")
    assert pipe(Image.fromarray(photo(33, 47))).images[0].size == (47, 33)
    given = torch.from_numpy(photo(33, 47)).permute(2, 0, 1).cuda()
    assert pipe(given, output_type="pt").images.device.type == "cuda"
