"""Wrong photos, options and restorers: each is named before anything is restored."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline

from .conftest import gentle
from .contract import photo

# --- bad input ---


BAD_PHOTOS = {
    "empty list": ([], ValueError, r"`image` must hold at least one photo, got an empty list"),
    "file name": ("photo.png", TypeError, r"`image` must be a PIL image.*got builtins.str; open the file first"),
    "None": (None, TypeError, r"`image` must be .*NoneType"),
    "None in a list": ([photo(4, 4), None], TypeError, r"`image\[1\]` must be"),
    "mixed kinds": ([photo(4, 4), torch.rand(3, 4, 4)], TypeError, "one type, got numpy arrays and torch tensors"),
    "rank 1": (np.zeros(3, np.uint8), ValueError, r"\(H, W\), \(H, W, C\) or \(B, H, W, C\), got shape \(3,\)"),
    "rank 2 tensor": (torch.rand(4, 4), ValueError, r"\(C, H, W\) or \(B, C, H, W\), got shape \(4, 4\)"),
    "rank 5": (torch.rand(1, 1, 3, 4, 4), ValueError, r"`image` must be a tensor \(C, H, W\)"),
    "channels first array": (
        np.zeros((3, 8, 9), np.uint8),
        ValueError,
        r"1 or 3 channels on its last axis.*\(3, 8, 9\)",
    ),
    "channels last tensor": (torch.rand(8, 9, 3), ValueError, r"1 or 3 channels on its third last axis"),
    "five channels": (np.zeros((8, 9, 5), np.uint8), ValueError, r"`image` must have 1 or 3 channels"),
    "two channel tensor": (torch.rand(2, 2, 8, 9), ValueError, r"1 or 3 channels .*without alpha.*\(2, 2, 8, 9\)"),
    "four channel tensor": (torch.rand(4, 8, 9), ValueError, r"1 or 3 channels"),
    "no height": (np.zeros((0, 4, 3), np.uint8), ValueError, r"`image` must have pixels, got .*\(0, 4, 3\)"),
    "no photos": (torch.rand(0, 3, 4, 4), ValueError, r"`image` must have pixels, got .*\(0, 3, 4, 4\)"),
    "PIL without pixels": (
        PIL.Image.new("RGB", (0, 4)),
        ValueError,
        r"must have pixels, got a PIL image of size \(0, 4\)",
    ),
    "NaN": (np.full((4, 4, 3), np.nan, np.float32), ValueError, r"`image` must be finite, got NaN or infinite"),
    "infinity in a list": (
        [torch.rand(3, 4, 4), torch.full((3, 4, 4), torch.inf)],
        ValueError,
        r"`image\[1\]` must be finite",
    ),
    "above one": (
        torch.full((3, 4, 4), 1.5),
        ValueError,
        r"`image` of floating point must lie in \[0, 1\], got 1.5 to 1.5",
    ),
    "0 to 255 as float": (photo(4, 4).astype(np.float32), ValueError, r"must lie in \[0, 1\]"),
    "below zero": (np.full((4, 4), -0.01), ValueError, r"must lie in \[0, 1\], got -0.01 to"),
    "alpha above one": (
        np.dstack([np.ones((4, 4, 3)), np.full((4, 4), 2.0)]),
        ValueError,
        "alpha of `image`.*got 2 to 2",
    ),
    "int64": (np.zeros((4, 4, 3), np.int64), TypeError, r"`image` must be uint8, uint16 or floating point.*got int64"),
    "bool": (np.zeros((4, 4, 3), bool), TypeError, r"got bool"),
    "int32 tensor": (torch.zeros(3, 4, 4, dtype=torch.int32), TypeError, r"got torch.int32"),
    "complex": (np.zeros((4, 4), complex), TypeError, r"got complex128"),
    "CMYK": (PIL.Image.new("CMYK", (4, 4)), ValueError, r"PIL modes .*got CMYK; convert it first.*ImageCms"),
    "float PIL": (PIL.Image.new("F", (4, 4)), ValueError, r"PIL modes .*got F"),
    "too deep PIL": (
        PIL.Image.new("I", (4, 4), 70000),
        ValueError,
        r"mode I must hold 16-bit values, got 70000 to 70000",
    ),
}


@pytest.mark.parametrize("case", BAD_PHOTOS)
def test_a_bad_photo_is_named_with_what_would_be_right(pipe, case):
    image, error, message = BAD_PHOTOS[case]
    with pytest.raises(error, match=message):
        pipe(image, output_type="np")


def test_nothing_is_restored_before_every_photo_is_checked(pipe):
    calls = []
    with pytest.raises(ValueError, match=r"`image\[2\]` must be finite"):
        pipe(
            [np.ones((4, 4)), np.ones((4, 4)), np.full((4, 4), np.inf)],
            callback_on_step_end=lambda *arguments: calls.append(arguments),
        )
    assert calls == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_type": "latent"}, ValueError, r"`output_type` must be one of \['pil', 'np', 'pt'\], got 'latent'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer or None, got 0"),
        ({"batch_size": 1.5}, ValueError, "`batch_size` must be a positive integer"),
        ({"strength": 1.5}, ValueError, r"`strength` must be a number from 0 \(unchanged photo\) to 1, got 1.5"),
        ({"strength": float("nan")}, ValueError, "`strength` must be a number"),
        ({"strength": "half"}, ValueError, "`strength` must be a number"),
        ({"callback_on_step_end": 3}, TypeError, "`callback_on_step_end` must be callable, got int"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents"]},
            ValueError,
            r"`callback_on_step_end_tensor_inputs` must be among \['restored', 'indices'\], got \['latents'\]",
        ),
    ],
)
def test_a_bad_option_is_named_with_what_would_be_right(pipe, options, error, message):
    with pytest.raises(error, match=message):
        pipe(photo(4, 4), **options)


def test_a_restorer_must_be_a_module_that_keeps_the_shape():
    with pytest.raises(TypeError, match="`restorer` must be a torch.nn.Module, got function"):
        DAARestorationPipeline(gentle)
    for wrong in (nn.MaxPool2d(2), nn.LSTM(4, 4)):
        pipe = DAARestorationPipeline(nn.Sequential(nn.Flatten(0, 1), wrong) if isinstance(wrong, nn.LSTM) else wrong)
        with pytest.raises(
            ValueError, match=r"`restorer` must return a tensor of its input's shape \(1, 3, 4, 4\), got"
        ):
            pipe(photo(4, 4))
