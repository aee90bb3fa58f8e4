"""Conversion of photos to network batches and back, without resizing: bit depth, alpha, grayscale, padding."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from .transfers import to_device

PhotoInput = PIL.Image.Image | np.ndarray | torch.Tensor
OUTPUT_TYPES = ("pil", "np", "pt")

# PIL mode -> mode to which it is converted. Others (CMYK, LAB, HSV, F) are rejected: their conversion to RGB needs a
# color profile, or a scale that is not stored with the pixels.
_PIL_MODES = {
    **{"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "P": "RGB"},
    **{"RGBA": "RGBA", "RGBa": "RGBA", "PA": "RGBA", "I": "I", "I;16": "I;16", "I;16L": "I;16", "I;16B": "I;16"},
}
_INTEGER_MAXIMUM = {torch.uint8: 255.0, torch.uint16: 65535.0}
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


@dataclass(frozen=True)
class Photo:
    """Pixels and alpha of one photo, in its own bit depth.

    Args:
        pixels: colors (C, H, W), C = 1 for grayscale; uint8, uint16, or floating point in [0, 1].
        alpha: alpha channel (1, H, W) of the same dtype, or None.
        flat: whether the photo was an array (H, W) without channel axis, as its result then is.
        info: metadata of a PIL image (ICC profile, EXIF, resolution).
        device: device of the given tensor, to which the result is moved back.
    """

    pixels: torch.Tensor
    alpha: torch.Tensor | None = None
    flat: bool = False
    info: dict[Any, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def rows(self, channels: int) -> int:
        """Number of batch rows for this photo: 1, or one per color channel for a grayscale restorer."""
        return 1 if self.pixels.shape[0] in (1, channels) else self.pixels.shape[0]

    def crop(self, rows: slice, columns: slice) -> "Photo":
        """Part of the photo without alpha, as a view."""
        return replace(self, pixels=self.pixels[:, rows, columns], alpha=None)


# --- reading of inputs ---


def read_photos(image: PhotoInput | Sequence[PhotoInput], channels: int) -> tuple[list[Photo], bool]:
    """Checks photos of any accepted type and converts them to `Photo`.

    Args:
        image: PIL image; array (H, W), (H, W, C) or (B, H, W, C); tensor (C, H, W) or (B, C, H, W); or a list of one of
            these types, of mixed sizes and bit depths (batches in a list are split into photos). Arrays may have alpha
            as second or fourth channel, as returned by image readers; tensors have colors only.
        channels: number of color channels of the restorer.

    Returns:
        The photos, and whether they were given as a list.

    Raises:
        TypeError: unsupported type, mixed types in a list, or a dtype other than uint8, uint16 and floating point.
        ValueError: empty list, no pixels, wrong rank or number of channels, unsupported PIL mode, NaN, infinity, or
            floats outside [0, 1]. The message states the index in the list.
    """
    if not isinstance(image, list | tuple):
        return _read(image, "`image`", channels), False
    if not image:
        raise ValueError("`image` must hold at least one photo, got an empty list")
    kinds = sorted({_kind(item, f"`image[{i}]`") for i, item in enumerate(image)})
    if len(kinds) > 1:
        raise TypeError(f"`image` must hold photos of one type, got {' and '.join(kinds)} in one list")
    return [photo for i, item in enumerate(image) for photo in _read(item, f"`image[{i}]`", channels)], True


def _kind(image: Any, name: str) -> str:
    kinds = {PIL.Image.Image: "PIL images", np.ndarray: "numpy arrays", torch.Tensor: "torch tensors"}
    for kind, word in kinds.items():
        if isinstance(image, kind):
            return word
    is_name = isinstance(image, str | bytes) or hasattr(image, "__fspath__")
    hint = "; open the file first, with PIL.Image.open" if is_name else ""
    raise TypeError(
        f"{name} must be a PIL image, a numpy array, a torch tensor or a list of them, got "
        f"{type(image).__module__}.{type(image).__qualname__}{hint}"
    )


def _read(image: Any, name: str, channels: int) -> list[Photo]:
    kind = _kind(image, name)
    if kind == "PIL images":
        return [_read_pil(image, name, channels)]
    photos = _read_array(image, name, channels) if kind == "numpy arrays" else _read_tensor(image, name, channels)
    for photo in photos:
        _check_range(photo.pixels, name)
        if photo.alpha is not None:
            _check_range(photo.alpha, f"alpha of {name}")
    return photos


def _read_pil(image: PIL.Image.Image, name: str, channels: int) -> Photo:
    if 0 in image.size:
        raise ValueError(f"{name} must have pixels, got a PIL image of size {image.size}")
    mode = _PIL_MODES.get(image.mode)
    if mode is None:
        raise ValueError(
            f"{name} must have one of the PIL modes {', '.join(_PIL_MODES)}, got {image.mode}; convert it first, e.g. "
            'image.convert("RGB") or, exactly, by PIL.ImageCms with its color profile'
        )
    if mode in ("L", "RGB") and image.has_transparency_data:
        mode += "A"  # a palette entry or color key marks transparent pixels
    if image.mode != mode and mode not in ("I", "I;16"):
        image = image.convert(mode)
    array = np.asarray(image)
    if mode == "I":  # some readers return 16-bit grayscale in this mode
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"{name} of PIL mode I must hold 16-bit values, got {array.min()} to {array.max()}")
        array = array.astype(np.uint16)
    photo = _read_array(array, name, channels)[0]
    return replace(photo, info={key: value for key, value in image.info.items() if key != "transparency"})


def _read_array(array: np.ndarray, name: str, channels: int) -> list[Photo]:
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"{name} must be an array (H, W), (H, W, C) or (B, H, W, C), got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must have pixels, got an array of shape {array.shape}")
    if array.dtype.kind not in "uf" or array.dtype.newbyteorder("=") not in ("u1", "u2", "f2", "f4", "f8"):
        raise TypeError(f"{name} must be uint8, uint16 or floating point in [0, 1], got {array.dtype}")
    flat = array.ndim == 2
    batch = array[None, :, :, None] if flat else array[None] if array.ndim == 3 else array  # (B, H, W, C)
    count = batch.shape[3]
    has_alpha = count in (2, 4) and count != channels
    if count - has_alpha not in _color_counts(channels):
        raise ValueError(_channel_message(name, "last", array.shape, channels, "or one more for alpha"))
    # torch supports neither foreign byte order nor negative strides
    if any(stride < 0 for stride in batch.strides):
        batch = np.ascontiguousarray(batch)
    batch = np.require(batch, dtype=batch.dtype.newbyteorder("="), requirements=["A"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # the array is not written to
        tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)  # (B, C, H, W)
    colors = count - has_alpha
    return [Photo(t[:colors], t[colors:] if has_alpha else None, flat=flat) for t in tensors]


def _read_tensor(tensor: torch.Tensor, name: str, channels: int) -> list[Photo]:
    if tensor.ndim not in (3, 4):
        raise ValueError(f"{name} must be a tensor (C, H, W) or (B, C, H, W), got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must have pixels, got a tensor of shape {tuple(tensor.shape)}")
    if tensor.dtype not in _INTEGER_MAXIMUM and tensor.dtype not in _FLOATS:
        raise TypeError(f"{name} must be uint8, uint16 or floating point in [0, 1], got {tensor.dtype}")
    if tensor.shape[-3] not in _color_counts(channels):
        raise ValueError(_channel_message(name, "third last", tuple(tensor.shape), channels, "without alpha"))
    batch = tensor.detach() if tensor.ndim == 4 else tensor.detach()[None]  # (B, C, H, W)
    return [Photo(t, device=tensor.device) for t in batch]


def _color_counts(channels: int) -> set[int]:
    # A grayscale restorer restores color photos channel by channel.
    return {1, 3} if channels == 1 else {1, channels}


def _channel_message(name: str, axis: str, shape: tuple[int, ...], channels: int, alpha: str) -> str:
    counts = " or ".join(str(count) for count in sorted(_color_counts(channels)))
    wanted = f"{counts} channels on its {axis} axis ({alpha})"
    return f"{name} must have {wanted} for a restorer with {channels} channels, got shape {shape}"


def _check_range(pixels: torch.Tensor, name: str) -> None:
    if not pixels.is_floating_point():
        return
    low, high = (bound.item() for bound in torch.aminmax(pixels))  # one pass; NaN propagates
    if low >= 0 and high <= 1:
        return
    if not torch.isfinite(pixels).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite pixels")
    raise ValueError(f"{name} of floating point must lie in [0, 1], got {low:g} to {high:g}")


def in_own_depth(image: Any, as_float: bool | None, out: Any = None) -> bool:
    """Whether arrays and tensors are returned in the photo's bit depth. `as_float` None: True unless `image` is PIL.

    Raises:
        ValueError: floats are requested, but `out` has an integer dtype.
    """
    if as_float is None:
        first = image[0] if isinstance(image, list | tuple) else image
        return not isinstance(first, PIL.Image.Image)
    if as_float and out is not None and out.dtype.kind != "f":
        raise ValueError(f"`as_float` must be False or None if `out` has an integer dtype, got `out` of {out.dtype}")
    return not as_float


def as_floats(photo: Photo) -> Photo:
    """Converts an integer photo to float32 in [0, 1]; floating point photos are returned unchanged."""
    maximum = _INTEGER_MAXIMUM.get(photo.pixels.dtype)
    if maximum is None:
        return photo
    alpha = None if photo.alpha is None else photo.alpha.float() / maximum
    return replace(photo, pixels=photo.pixels.float() / maximum, alpha=alpha)


# --- conversion to batches and back ---


def to_batch(
    photos: Sequence[Photo], channels: int, value_range: tuple[float, float], device: torch.device
) -> torch.Tensor:
    """Converts photos of one size to a batch in the restorer's range: `low + x (high - low)`, x in [0, 1].

    Grayscale is repeated to the restorer's channels; for a grayscale restorer, each color channel is a batch row.

    Returns:
        (N, channels, H, W), float32, in new memory in channels-last order, which makes convolutions on the CPU up to
        1.4 times faster and needs no transposition of interleaved photos.
    """
    rows = [photo.rows(channels) for photo in photos]
    shape = (sum(rows), channels, *photos[0].size)
    batch = torch.empty(shape, device=device, memory_format=torch.channels_last)
    for photo, target in zip(photos, batch.split(rows), strict=True):
        one_row = target.shape[0] == 1
        # integers are transferred before conversion, as they are smaller; not every device supports uint16
        pixels = photo.pixels
        if device.type == "cuda" or pixels.dtype == torch.uint8:
            pixels = to_device(pixels, device)
        if pixels.dtype == torch.uint16 and pixels.device.type == "cuda":
            pixels = pixels.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
        target.copy_(pixels[None] if one_row else pixels[:, None])  # (1, 1 or C, H, W) or (c, 1, H, W)
        if photo.pixels.dtype in _INTEGER_MAXIMUM:
            target.div_(_INTEGER_MAXIMUM[photo.pixels.dtype])
    low, high = value_range
    return batch if (low, high) == (0.0, 1.0) else batch.mul_(high - low).add_(low)


def from_batch(
    photos: Sequence[Photo], batch: torch.Tensor, channels: int, value_range: tuple[float, float]
) -> list[Photo]:
    """Inverse of `to_batch`: converts restored rows to photos, rounded to the original bit depth, with original alpha.

    Args:
        photos: photos from which the batch was made.
        batch: restored batch (N, channels, H, W), float32, in `value_range`; clamped here and nowhere else.

    Returns:
        Photos on the devices of `photos`.
    """
    low, high = value_range
    restored = []
    for photo, rows in zip(photos, batch.split([photo.rows(channels) for photo in photos]), strict=True):
        pixels = rows[0] if rows.shape[0] == 1 else rows[:, 0]  # (C, H, W)
        if photo.pixels.shape[0] == 1 and channels > 1:
            pixels = pixels.mean(0, keepdim=True)  # gray in, gray out
        if (low, high) != (0.0, 1.0):
            pixels = (pixels - low) / (high - low)
        maximum = _INTEGER_MAXIMUM.get(photo.pixels.dtype)
        if maximum is None:
            pixels = pixels.clamp(0, 1).to(photo.pixels.dtype)
        else:
            integers = pixels.mul(maximum).round_().clamp_(0, maximum)
            pixels = integers.to(torch.uint8) if maximum == 255 else _as_uint16(integers)
        restored.append(replace(photo, pixels=pixels.to(photo.pixels.device)))
    return restored


def _as_uint16(values: torch.Tensor) -> torch.Tensor:
    """Casts whole numbers in [0, 65535] to uint16 via int32; not every device supports uint16."""
    if values.device.type == "cuda":
        return values.to(torch.int32).to(torch.int16).view(torch.uint16)  # the low 16 bits
    return values.to(torch.int32).cpu().to(torch.uint16)


def pad_to_multiple(batch: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pads (N, C, H, W) at the right and bottom to multiples of `multiple`.

    Padding is by reflection, or by replication along an axis that is too short for that.
    """
    height, width = batch.shape[2:]
    for padding, side in (((0, -width % multiple, 0, 0), width), ((0, 0, 0, -height % multiple), height)):
        if any(padding):
            batch = F.pad(batch, padding, mode="reflect" if max(padding) < side else "replicate")
    return batch.contiguous(memory_format=torch.channels_last)


# --- assembly of results ---


def check_output_type(output_type: str, photos: Sequence[Photo]) -> None:
    """Raises ValueError if `output_type` is unknown or cannot represent one of the photos."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` must be one of {list(OUTPUT_TYPES)}, got {output_type!r}")
    if output_type == "pil" and any(
        photo.pixels.dtype == torch.uint16 and (photo.pixels.shape[0] > 1 or photo.alpha is not None)
        for photo in photos
    ):
        raise ValueError(
            '`output_type` "pil" supports 8 bits for colors and alpha, got a 16-bit photo: choose "np" or "pt"'
        )
    if output_type == "pil" and any(photo.pixels.shape[0] not in (1, 3) for photo in photos):
        raise ValueError('`output_type` "pil" supports grayscale and RGB only: choose "np" or "pt"')


def assemble(photos: Sequence[Photo], output_type: str, as_list: bool) -> Any:
    """Converts photos to `output_type`: a list, or with `as_list` False one batch (PIL images are always a list)."""
    if output_type == "pil":
        return [_to_pil(photo) for photo in photos]
    is_numpy = output_type == "np"
    images: list[Any] = [_to_numpy(photo) if is_numpy else _with_alpha(photo).contiguous() for photo in photos]
    if as_list:
        return images
    stack: Any = np.stack if is_numpy else torch.stack
    return stack(images) if len(images) > 1 else images[0][None]


def _with_alpha(photo: Photo) -> torch.Tensor:
    return photo.pixels if photo.alpha is None else torch.cat([photo.pixels, photo.alpha])


def _to_numpy(photo: Photo) -> np.ndarray:
    pixels = _with_alpha(photo).cpu()
    pixels = pixels.float() if pixels.dtype == torch.bfloat16 else pixels  # numpy has no such type
    array = pixels.permute(1, 2, 0).contiguous().numpy()  # (H, W, C)
    return array[:, :, 0] if photo.flat else array


def _to_pil(photo: Photo) -> PIL.Image.Image:
    array = _to_numpy(replace(photo, flat=photo.pixels.shape[0] == 1 and photo.alpha is None))
    if array.dtype.kind == "f":
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    image = PIL.Image.fromarray(array)
    image.info = dict(photo.info)
    return image
