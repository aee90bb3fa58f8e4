"""Contact sheets: a grid of photos with titles and captions, as a PNG file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..files import printable, replacing

SheetImage = Image.Image | np.ndarray | torch.Tensor

WHITE = (255, 255, 255)
EMPTY = (244, 244, 245)  # background of a cell
INK = (24, 24, 27)  # color of titles
SOFT_INK = (92, 92, 99)  # color of captions
MIN_CELL = 32  # pixels


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels, all derived from that of a cell."""

    cell: int

    @property
    def gap(self) -> int:
        return max(4, self.cell // 24)

    @property
    def margin(self) -> int:
        return 2 * self.gap

    def font(self, scale: float = 1.0) -> ImageFont.FreeTypeFont:
        font = ImageFont.load_default(size=max(10, round(scale * self.cell / 15)))
        assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's default font, if a size is given
        return font


def contact_sheet(
    rows: Sequence[Sequence[SheetImage | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    path: str | os.PathLike[str],
    captions: Sequence[Sequence[str | None]] | None = None,
    cell: int = 256,
    *,
    zoom: int | None = None,
    title: str | None = None,
) -> Path:
    """Draws rows of photos in equal cells on white, and writes them as a PNG file.

    Args:
        rows: photos, row by row: PIL images, numpy uint8 (H, W), (H, W, 1) or (H, W, 3), or float tensors (C, H, W) in
            [0, 1] with C 1 or 3, which are clamped; None for an empty cell. Sizes may differ.
        column_titles: titles above the columns; () for none.
        row_titles: titles to the left of the rows; () for none. Long ones are wrapped, then abbreviated.
        path: path of the file, ending in ".png"; its folder is created if missing. Written atomically.
        captions: texts below the photos, such as "31.2 dB", in rows and columns like `rows`; None for no text.
        cell: width and largest height of a cell in pixels, at least 32.
        zoom: whole number: show the center of each photo, with each pixel as a block of `zoom` x `zoom`, which makes
            noise visible. None: show whole photos, reduced to the cell or enlarged by an integer factor.
        title: title above the sheet.

    Returns:
        `path`.

    Raises:
        TypeError: an image has another type.
        ValueError: numbers of rows, titles or captions differ, an image has another shape or NaN, `cell` or `zoom` is
            out of bounds, or `path` does not end in ".png".
    """
    path = Path(path)
    _check_grid(rows, column_titles, row_titles, captions)
    if path.suffix.lower() != ".png":
        raise ValueError(f'`path` must end in ".png", got {str(path)!r}')
    if cell < MIN_CELL:
        raise ValueError(f"`cell` must be at least {MIN_CELL} pixels, got {cell!r}")
    if zoom is not None and not (isinstance(zoom, int) and 1 <= zoom <= cell):
        raise ValueError(f"`zoom` must be a whole number from 1 to `cell` ({cell}) or None, got {zoom!r}")
    photos = [
        [None if image is None else _fit(_to_pil(image, f"rows[{i}][{j}]"), cell, zoom) for j, image in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    column_titles, row_titles = ([printable(text) for text in titles] for titles in (column_titles, row_titles))
    if captions is not None:
        captions = [[None if text is None else printable(text) for text in row] for row in captions]
    title = None if title is None else printable(title)
    sheet = _draw(photos, column_titles, row_titles, captions, _Layout(cell), title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _check_grid(rows, column_titles, row_titles, captions) -> None:
    """Raises ValueError unless the numbers of photos, titles and captions agree."""
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"`rows` must have equal numbers of photos, got {[len(row) for row in rows]}")
    for name, titles, count in (("column", column_titles, len(rows[0])), ("row", row_titles, len(rows))):
        if isinstance(titles, str) or len(titles) not in (0, count):
            raise ValueError(f"`{name}_titles` must be {count} texts (one per {name}) or (), got {titles!r}")
    if captions is not None and [len(row) for row in captions] != [len(row) for row in rows]:
        raise ValueError(
            f"`captions` must be {len(rows)} rows of {len(rows[0])} texts, got {[len(row) for row in captions]}"
        )


def _to_pil(image: SheetImage, name: str) -> Image.Image:
    """Converts an image to a PIL image in mode RGB; transparent parts become white."""
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point():
            raise ValueError(f"`{name}` must be a float tensor (1 or 3, H, W), got {image.dtype} {tuple(image.shape)}")
        if image.isnan().any():
            raise ValueError(f"`{name}` must not hold NaN, got {int(image.isnan().sum())} of {image.numel()} values")
        image = (image.detach().cpu().double().clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    if isinstance(image, np.ndarray):
        is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
        if not is_image or image.dtype != np.uint8:
            raise ValueError(f"`{name}` must be uint8 (H, W) or (H, W, 1 or 3), got {image.dtype} {image.shape}")
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if image.size:
            image = Image.fromarray(np.ascontiguousarray(image))
    if isinstance(image, Image.Image) and image.mode.startswith(("I", "F")):
        raise ValueError(f"`{name}` must be an 8-bit image, got PIL mode {image.mode!r}")
    if not isinstance(image, Image.Image | np.ndarray):
        raise TypeError(f"`{name}` must be a PIL image, numpy array or torch tensor, got {type(image).__name__}")
    if isinstance(image, np.ndarray) or 0 in image.size:
        raise ValueError(f"`{name}` must have at least one pixel, got size {image.size}")
    if image.has_transparency_data:
        photo = Image.new("RGBA", image.size, WHITE)
        photo.alpha_composite(image.convert("RGBA"))
        image = photo
    return image.convert("RGB")


def _fit(photo: Image.Image, cell: int, zoom: int | None) -> Image.Image:
    """Scales a photo, or enlarges its center, to at most `cell` pixels wide and high."""
    if zoom is None:
        longest = max(photo.size)
        if longest > cell:
            width, height = (max(1, round(side * cell / longest)) for side in photo.size)
            return photo.resize((width, height), Image.Resampling.LANCZOS)
        zoom = cell // longest
    width, height = (min(side, cell // zoom) for side in photo.size)
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    center = photo.crop((left, top, left + width, top + height))
    return center.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)


def _draw(photos, column_titles, row_titles, captions, layout: _Layout, title: str | None) -> Image.Image:
    """Draws a sheet of photos (PIL images or None) that fit into cells; other arguments as for `contact_sheet`."""
    # 1. sizes; factors of a font's size are heights of its lines with their spacing
    cell, gap, margin = layout.cell, layout.gap, layout.margin
    cell_height = max((photo.height for row in photos for photo in row if photo is not None), default=cell)
    title_font, head_font, font = layout.font(1.25), layout.font(), layout.font(0.9)
    line_height = round(1.3 * font.size)
    labels = [_wrap(text, font, round(0.75 * cell)) for text in row_titles]  # lines of each row's title
    label_width = max((font.getlength(text) for lines in labels for text in lines), default=0)
    left = margin + (round(label_width) + margin if label_width else 0)
    title_height = round(1.8 * title_font.size) if title else 0
    top = margin + title_height + (round(1.6 * head_font.size) if column_titles else 0)
    has_captions = captions is not None and any(text for row in captions for text in row)
    step = cell_height + gap + (round(1.7 * font.size) if has_captions else 0)  # from one row of photos to the next
    # 2. drawing
    columns = len(photos[0])
    width = left + columns * (cell + gap) - gap + margin
    sheet = Image.new("RGB", (width, top + len(photos) * step - gap + margin), WHITE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin), _cut(title, title_font, width - 2 * margin), INK, title_font, anchor="lt")
    for j, text in enumerate(column_titles):
        center = left + j * (cell + gap) + cell // 2
        draw.text((center, top - 0.55 * head_font.size), _cut(text, head_font, cell), INK, head_font, anchor="ms")
    for i, row in enumerate(photos):
        y = top + i * step
        for k, text in enumerate(labels[i] if labels else []):
            middle = y + cell_height / 2 + (k - (len(labels[i]) - 1) / 2) * line_height
            draw.text((left - margin, middle), text, INK, font, anchor="rm")
        for j, photo in enumerate(row):
            x = left + j * (cell + gap)
            if photo is not None:
                draw.rectangle((x, y, x + cell - 1, y + cell_height - 1), fill=EMPTY)
                sheet.paste(photo, (x + (cell - photo.width) // 2, y + (cell_height - photo.height) // 2))
            text = captions[i][j] if has_captions else None
            if text:
                baseline = y + cell_height + 1.15 * font.size
                draw.text((x + cell // 2, baseline), _cut(text, font, cell), SOFT_INK, font, anchor="ms")
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int = 3) -> list[str]:
    """Wraps a text to at most `most` lines, each at most `width` wide."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_cut(line, font, width) for line in lines]


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Shortens a text to one line of `width`, omitting its middle, since file names often differ at their ends."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if font.getlength(shorter) <= width:
            return shorter
    return text[:1] + "…"
