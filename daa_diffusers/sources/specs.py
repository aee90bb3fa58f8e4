"""Opening of sources specified by strings (folders, tar shards, Hugging Face datasets), and checks of their photos."""

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..errors import ConfigurationError, UnreadablePhotoError, did_you_mean
from .folders import PhotoFolder, PhotoSource
from .hf_datasets import WINDOW, DatasetSource, StreamSource
from .tar_shards import ShardSource, expand_shards

logger = logging.getLogger(__name__)

DATASET_OPTIONS = ("split", "column", "config", "revision", "data_files", "data_dir", "streaming", "window")
SHARDS = re.compile(r"(?P<pattern>.+\.tar)(?:\?(?P<options>[^/]*))?", re.IGNORECASE)
COMPRESSED = re.compile(r".+\.(tar\.\w+|tgz)", re.IGNORECASE)
SAVED_DATASET = ("state.json", "dataset_dict.json")  # files that `save_to_disk` writes

INSPECTED = 50  # maximum number of photos per source whose sizes are checked
COMPARED = 3  # number of photos at the start of a stream that are compared with another source
FAR_TOO_SMALL = 4  # ratio of the patch to a photo's shorter side above which the photo is too small


def open_source(
    spec: str | os.PathLike, *, channels: int = 3, cache_bytes: int = 2**30, argument: str = "source"
) -> PhotoSource:
    """Opens the source of photos specified by a string.

    - a folder: its photos, searched recursively, or the dataset that `Dataset.save_to_disk` wrote there;
    - `train-{000..012}.tar`, `shards/*.tar?column=clean.png`: local tar shards in webdataset's layout;
    - `hf:NAME[?option=value&...]`: a Hugging Face dataset, where NAME is a Hub id, a folder (images, parquet files, or
      saved), a parquet file, or a builder (`hf:webdataset?data_files=https://...&streaming=1`). Options: `split`
      (default "train"), `column` of the photos (default: the only one with images), `config`, `revision`, `data_files`
      (may be repeated), `data_dir`, `streaming=1` (read in windows of `window` examples, nothing is stored). Special
      characters in values are percent-encoded.

    Args:
        spec: the string.
        channels, cache_bytes: as for `PhotoSource`; streams have no cache.
        argument: name of the caller's argument, for messages.

    Raises:
        ConfigurationError: the source cannot be opened or holds no photos, or an option is unknown.

    Examples:
        >>> import tempfile
        >>> from daa_diffusers.sources.demo_photos import demo_photos
        >>> from daa_diffusers.sources.specs import open_source
        >>> source = open_source(demo_photos(tempfile.mkdtemp()).clean)
        >>> source.photo(0).shape
        torch.Size([3, 192, 192])
    """
    text = os.path.expanduser(spec)
    common: dict[str, Any] = {"channels": channels, "argument": argument}
    if text.startswith("hf:"):
        location, options = _split(text.removeprefix("hf:"), DATASET_OPTIONS, argument)
        return _open_dataset(os.path.expanduser(location), options, cache_bytes, common)
    if os.path.isdir(text):
        if any(os.path.isfile(os.path.join(text, name)) for name in SAVED_DATASET):
            return _open_dataset(text, {}, cache_bytes, common)
        try:
            return PhotoFolder(text, cache_bytes=cache_bytes, **common)
        except ConfigurationError as error:
            if not any(Path(text).rglob("*.parquet")):
                raise
            raise ConfigurationError(
                f"`{argument}`: {text!r} holds a dataset in parquet files: give it as {'hf:' + text!r}"
            ) from error
    if COMPRESSED.fullmatch(text):
        raise ConfigurationError(
            f"`{argument}`: photos of compressed shards cannot be read by index, got {text!r}; decompress them, or "
            "stream them: `hf:webdataset?data_files=...&streaming=1`"
        )
    if text.endswith(".parquet"):
        raise ConfigurationError(f"`{argument}`: {text!r} is a dataset: give it as {'hf:' + text!r}")
    shards = SHARDS.fullmatch(text)
    if shards:
        _, options = _split("?" + (shards["options"] or ""), ("column",), argument)
        paths = expand_shards(shards["pattern"], argument)
        return ShardSource(paths, cache_bytes=cache_bytes, column=_last(options, "column"), **common)
    return PhotoFolder(text, cache_bytes=cache_bytes, **common)  # raises the error for a missing folder or a file


def _split(text: str, known: Sequence[str], argument: str) -> tuple[str, dict[str, list[str]]]:
    """Splits `location?name=value&name=value` into location and values by name."""
    location, _, query = text.partition("?")
    options: dict[str, list[str]] = {}
    for option in filter(None, query.split("&")):
        name, _, value = option.partition("=")
        if name not in known or not value:
            hint = "" if name in known else did_you_mean(name, known)
            raise ConfigurationError(
                f"`{argument}`: options are written `?name=value&...` with {', '.join(known)}, got {option!r}{hint}"
            )
        options.setdefault(name, []).append(unquote(value))
    return location, options


def _last(options: Mapping[str, list[str]], name: str) -> str | None:
    """The last value of an option; None if it is not given."""
    return options[name][-1] if name in options else None


def _open_dataset(
    location: str, options: dict[str, list[str]], cache_bytes: int, common: dict[str, Any]
) -> PhotoSource:
    """Opens a dataset; `common` are arguments of every source, `options` the values by name."""
    argument = common["argument"]
    streaming = (_last(options, "streaming") or "0").lower()
    if streaming not in ("0", "1", "false", "true"):
        raise ConfigurationError(f"`{argument}`: `streaming` must be 1 or 0, got {streaming!r}")
    window = _last(options, "window") or str(WINDOW)
    if not window.isdecimal():
        raise ConfigurationError(f"`{argument}`: `window` must be a number of examples, got {window!r}")
    streams = streaming in ("1", "true")
    dataset = _load_dataset(location, options, streams, argument)
    # records must not contain local paths
    name = f"hf:{Path(location).name if os.path.exists(location) else location}"
    recorded = {k: v for k, v in options.items() if k not in ("streaming", "window", "data_files", "data_dir")}
    if recorded:
        name += "?" + "&".join(f"{option}={value}" for option, values in recorded.items() for value in values)
    common = {**common, "column": _last(options, "column"), "name": name}
    if streams:
        return StreamSource(dataset, window=int(window), **common)
    return DatasetSource(dataset, cache_bytes=cache_bytes, **common)


def _load_dataset(location: str, options: Mapping[str, list[str]], streams: bool, argument: str) -> Any:
    """Returns a split as `datasets.Dataset` or, if `streams`, as `datasets.IterableDataset`."""
    import datasets

    split = _last(options, "split") or "train"
    try:
        if any(os.path.isfile(os.path.join(location, name)) for name in SAVED_DATASET):
            dataset = datasets.load_from_disk(location)
            if isinstance(dataset, datasets.DatasetDict):
                if split not in dataset:
                    raise ValueError(f"its splits are {list(dataset)}, got {split!r}")
                dataset = dataset[split]
            return dataset.to_iterable_dataset() if streams else dataset
        files: Any = options.get("data_files")
        if location.endswith(".parquet"):
            location, files = "parquet", [location]
        return datasets.load_dataset(
            location,
            _last(options, "config"),
            split=split,
            data_files=files,
            data_dir=_last(options, "data_dir"),
            revision=_last(options, "revision"),
            streaming=streams,
        )
    except Exception as error:  # builders, parsers and the Hub's client each raise their own errors
        reason = str(error) or type(error).__name__
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigurationError(f"`{argument}`: cannot open the dataset {location!r}: {reason}{cause}") from error


def check_sources(roles: Mapping[str, Sequence[PhotoSource]], patch: int) -> None:
    """Checks the sources of a run before its first step, reading only headers.

    Photos smaller than the patch are mirrored at their borders. If more than half of a source's inspected photos (at
    most 50) are smaller, a warning is logged; if all have a side below a quarter of the patch, an error is raised.

    Args:
        roles: sources by role; those of "real" are compared with the clean ones.
        patch: side of the training patches in pixels.

    Raises:
        ConfigurationError: a real source equals or contains a clean one, or is contained in it; no inspected photo has
            a readable header; or all are far too small. The message lists all problems.
    """
    problems = []
    for role, sources in roles.items():
        for source in sources:
            problems += _size_problems(role, source, patch)
    for real in roles.get("real", ()):
        for role in ("clean", "unpaired_clean", "paired_clean"):
            problems += [
                f"`real` {real.location!r} and `{role}` {clean.location!r} hold the same photos; real photos have the "
                "degradation to adapt to, clean photos do not"
                for clean in roles.get(role, ())
                if _share_photos(real, clean)
            ]
    if problems:
        raise ConfigurationError("unsuitable photos:\n- " + "\n- ".join(problems))


def _size_problems(role: str, source: PhotoSource, patch: int) -> list[str]:
    """Describes what makes the sizes of a source's photos unsuitable, in at most one text; logs lesser problems."""
    sides, reason = [], ""  # shorter sides in pixels; the first error
    indices = _inspected(source)
    for index in indices:
        try:
            sides.append(min(source.size(index)))
        except (OSError, UnreadablePhotoError, IndexError) as error:  # IndexError: end of a stream
            reason = reason or str(error)
    if not sides:
        return [f"`{role}` {source.location!r}: none of the {len(indices)} checked photos can be read, e.g.: {reason}"]
    small = sum(side < patch for side in sides)
    text = f"{source.location!r}: {small} of {len(sides)} checked photos are smaller than `patch` {patch}"
    if all(side * FAR_TOO_SMALL < patch for side in sides):
        return [f"`{role}` {text}, the largest has a shorter side of {max(sides)} pixels; choose a smaller `patch`"]
    if 2 * small > len(sides):
        logger.warning("`%s` %s; they are mirrored at their borders. A smaller `patch` avoids this", role, text)
    return []


def _inspected(source: PhotoSource) -> range:
    """Returns the indices of at most 50 photos, spread over the source; the first ones of a stream."""
    if source.count is None:
        return range(min(INSPECTED, getattr(source, "window", INSPECTED)))
    return range(0, source.count, math.ceil(source.count / INSPECTED))


def _share_photos(real: PhotoSource, clean: PhotoSource) -> bool:
    """Whether one folder contains the other, or files of equal names and sizes have equal content."""
    if isinstance(real, PhotoFolder) and isinstance(clean, PhotoFolder):
        real_folder, clean_folder = (Path(os.path.realpath(source.folder)) for source in (real, clean))
        # folders are searched recursively
        if real_folder.is_relative_to(clean_folder) or clean_folder.is_relative_to(real_folder):
            return True
    if real.fingerprint() != clean.fingerprint():
        return False
    count = real.count or COMPARED
    try:  # noisy and clean photos of a pair may have equal names and, uncompressed, equal sizes: compare the files
        return all(real.encoded(index) == clean.encoded(index) for index in sorted({0, count // 2, count - 1}))
    except (OSError, UnreadablePhotoError, IndexError):
        return False


__all__ = ["DatasetSource", "PhotoFolder", "PhotoSource", "ShardSource", "StreamSource", "check_sources", "open_source"]
