"""Options, checks and output shared by several commands."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from ..errors import ConfigurationError
from ..files import one_line

PHOTO, MODEL, RUN = "Photos written", "Restoring", "Running"  # panels of the help

Checkpoint = Annotated[
    str,
    typer.Option(help="Bundled name, folder, weight file (.safetensors, .pth) or Hub id.", rich_help_panel=MODEL),
]
Strength = Annotated[
    float, typer.Option(help="Fraction of the change: 0 leaves photos unchanged, 1 is full.", rich_help_panel=MODEL)
]
Guard = Annotated[
    bool, typer.Option(help="Undo changes that do not resemble noise (derainers: rain).", rich_help_panel=MODEL)
]
SelfEnsemble = Annotated[
    bool,
    typer.Option("--self-ensemble", help="Mean over 8 flips and rotations: 8 times the time.", rich_help_panel=MODEL),
]
Tile = Annotated[
    str, typer.Option(help='Side of the tiles of large photos in pixels, "auto", or "none".', rich_help_panel=MODEL)
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=MODEL)]
AutoDtype = Annotated[
    str,
    typer.Option(
        help='float32, bfloat16, float16, or "auto": bfloat16 if it is faster and the result is the same.',
        rich_help_panel=MODEL,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(help="File format, such as jpeg, png or tiff. Default: the photo's.", rich_help_panel=PHOTO),
]
Bits = Annotated[int | None, typer.Option(help="8 or 16. Default: the photo's.", rich_help_panel=PHOTO)]
Quality = Annotated[
    int | None, typer.Option(help="1 to 100, for lossy formats. Default: a JPEG's own.", rich_help_panel=PHOTO)
]
StripLocation = Annotated[
    bool, typer.Option("--strip-location", help="Remove GPS and place names.", rich_help_panel=PHOTO)
]
MaxMegapixels = Annotated[
    float, typer.Option(help="Limit on the size of a photo; larger ones fail.", rich_help_panel=RUN)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line and photo.", rich_help_panel=RUN)]


def parse_tile(text: str) -> int | Literal["auto"] | None:
    """Returns `tile` of the pipeline for `--tile`; raises ConfigurationError unless it is auto, none or at least 32."""
    if text.lower() in ("auto", "none"):
        return "auto" if text.lower() == "auto" else None
    if not text.isdecimal() or int(text) < 32:
        raise ConfigurationError(f'`--tile` must be at least 32 (pixels), "auto" or "none", got {text!r}')
    return int(text)


def check_once(sources: Sequence[str], argument: str) -> None:
    """Raises ConfigurationError if a source is given twice, as its photos would count twice."""
    seen: set[str] = set()
    for source in sources:
        real = os.path.realpath(source) if os.path.exists(source) else source
        if real in seen:
            raise ConfigurationError(f"`{argument}` has {source!r} twice")
        seen.add(real)


def with_option_names(text: str, app: typer.Typer) -> str:
    """Replaces argument names in a message with options of a command: `max_megapixels` with `--max-megapixels`.

    Args:
        text: message with names in backticks.
        app: typer app of the command.
    """
    parameters = typer.main.get_command(app).params
    names = {option.name: max(option.opts, key=len) for option in parameters if option.opts[0].startswith("-")}
    return re.sub(r"`(\w+)`", lambda match: f"`{names.get(match[1], match[1])}`", text)


def print_skipped(skipped: Mapping[str, str], limit: int | None = None, *, err: bool = True) -> None:
    """Prints skipped photos (name -> reason), one per line, at most `limit`."""
    for name, reason in list(skipped.items())[:limit]:
        typer.echo(one_line(f"skipped: {name}: {reason}"), err=err)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Context without this package's warnings, for commands that print skipped photos themselves."""
    logger = logging.getLogger("daa_diffusers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
