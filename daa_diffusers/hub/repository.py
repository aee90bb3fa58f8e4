"""Code in repositories for users without this package, and checks for private data before an upload."""

import ast
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .. import _MODULES, __version__
from ..errors import ConfigurationError
from ..models.registry import RESTORERS
from .resolving import MODEL_INDEX, SAFETENSORS
from .untrusted import read_json

logger = logging.getLogger(__name__)

PIPELINE_CLASS = "DAARestorationPipeline"
LOADER_FILE = "pipeline.py"
# File name in a repository -> source file, relative to this package.
PIPELINE_CODE = {LOADER_FILE: "pipelines/standalone.py", "image_processor.py": "pipelines/image_processor.py"}
# Content of pipeline.py in a saved folder, by which diffusers' `DiffusionPipeline` finds the pipeline class.
LOADER = """# For DiffusionPipeline.from_pretrained(folder, trust_remote_code=True).
# DAARestorationPipeline.from_pretrained(folder) needs neither this file nor that argument.
try:
    from daa_diffusers import DAARestorationPipeline  # noqa: F401
except ImportError as error:
    raise ImportError("this pipeline needs the package daa-diffusers: pip install daa-diffusers") from error
"""
# Packages that the code may import, all installed with diffusers.
PLAIN_IMPORTS = {"torch", "diffusers", "numpy", "PIL"}
# Modules that are inlined into the files that import them: diffusers loads a single file per component, and for the
# pipeline only its file and those that it imports directly.
INLINED = {".record_mixin": "record_mixin.py", ".forward": "forward.py", ".transfers": "transfers.py"}
# Patterns of private data, which must not be uploaded; searched in every text file.
_TRACES = {
    "an access token": re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    "a password in an address": re.compile(r"://[^/\s:@]+:[^/\s@]+@"),
    "a path of a machine": re.compile(
        r"(?<![\w/.:-])(?:/(?:home|Users|root|mnt|media|tmp|var|srv)/|[A-Za-z]:\\)[^\s\"'`]+"
    ),
}


# --- code ---


def with_code(index: Mapping[str, Any], components: Sequence[str]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Collects the code that makes a repository work without this package, and the model_index.json that refers to it.

    Args:
        index: content of model_index.json, with this package's classes.
        components: names of the components in the index.

    Returns:
        Files (name -> content) and the new index. If the class of a component is not from this package, diffusers or
        transformers, or its module imports more than `PLAIN_IMPORTS`, there are no files and the index is unchanged.
    """
    package = Path(__file__).parents[1]
    named = dict(index)
    code: dict[str, bytes] = {}
    for component in components:
        module, class_name = index[component]
        own_module = _MODULES.get(class_name)  # relative to this package
        if own_module is None and class_name in RESTORERS:
            own_module = RESTORERS[class_name].__module__.partition(".")[2]
        if own_module is None:
            if module.split(".")[0] in ("diffusers", "transformers"):
                continue
            logger.warning("`%s` is a %s.%s: loading it requires that module", component, module, class_name)
            return {}, dict(index)
        path = package.joinpath(*own_module.split(".")).with_suffix(".py")
        if not top_level_imports(path) <= {*PLAIN_IMPORTS, *INLINED}:
            logger.warning("`%s` is a %s, which requires the package daa-diffusers", component, class_name)
            return {}, dict(index)
        code[f"{component}/{path.name}"] = _source(path)
        named[component] = [path.stem, class_name]
    code |= {name: _source(package / source) for name, source in PIPELINE_CODE.items()}
    named["_class_name"] = ["pipeline", PIPELINE_CLASS]
    return code, named


def write_loader(folder: Path) -> None:
    """Writes pipeline.py to the folder of a pipeline, and adds it to the folder's model_index.json.

    `DiffusionPipeline.from_pretrained(folder)` finds only diffusers' own pipelines; for others it runs the code that
    the index names, if `trust_remote_code=True`. An index of another pipeline class is not changed.
    """
    index = read_json(folder / MODEL_INDEX, f"{str(folder)!r} has no {MODEL_INDEX}")
    if index.get("_class_name") == PIPELINE_CLASS:
        (folder / LOADER_FILE).write_text(LOADER, encoding="utf-8")
        (folder / MODEL_INDEX).write_bytes(json_bytes({**index, "_class_name": [LOADER_FILE[:-3], PIPELINE_CLASS]}))


def _source(path: Path) -> bytes:
    """Returns the source file of this package for a repository, with the modules of `INLINED` inlined."""
    text = path.read_text(encoding="utf-8")
    for module, file in INLINED.items():
        before, statement, after = text.partition(f"from {module} import ")
        if statement:
            _, _, rest = after.partition("\n")  # drops the imported names
            text = before + path.with_name(file).read_text(encoding="utf-8") + rest
    return f"# Of daa_diffusers {__version__}, under the Apache License 2.0.\n{text}".encode()


def top_level_imports(path: Path) -> set[str]:
    """Returns the modules outside the standard library that a file imports at top level, relative ones with a dot."""
    modules = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add("." * node.level + (node.module or "") if node.level else (node.module or "").split(".")[0])
    return modules - set(sys.stdlib_module_names)


# --- private data ---


def without_machine(value: Any) -> Any:
    """Removes local data from JSON: absolute paths are reduced to their last part, skipped photos to their number."""
    if isinstance(value, Mapping):
        kept = {key: without_machine(item) for key, item in value.items()}
        if isinstance(kept.get("skipped"), dict | list):  # earlier versions wrote a list of names
            kept["skipped"] = len(kept["skipped"])
        return kept
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    if isinstance(value, str) and re.match(r"(?:/|~|[A-Za-z]:[\\/]|\\\\)", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def check_traces(name: str, content: bytes | Path, folder: Path) -> None:
    """Raises ConfigurationError if a text file, or the metadata of a weight file, contains private data (`_TRACES`).

    Args:
        name: file name for the message.
        content: content of the file, or its path.
        folder: folder of the file; its path counts as private data.
    """
    if isinstance(content, Path) and content.suffix == SAFETENSORS:
        with safe_open(content, framework="pt") as handle:
            text = json.dumps(handle.metadata() or {})
    else:
        raw = content.read_bytes() if isinstance(content, Path) else content
        text = raw.decode("utf-8", errors="replace")
    sought = {**_TRACES, "a path of this machine": re.compile(re.escape(str(folder.resolve())))}
    home = str(Path.home())
    if len(home) > len("C:\\"):  # not the root, which is part of every path
        sought["your home folder"] = re.compile(rf"{re.escape(home)}(?![\w-])")
    for what, pattern in sought.items():
        match = pattern.search(text)
        if match:
            shown = f"{match[0][:6]}..." if "path" not in what and "folder" not in what else match[0]
            raise ConfigurationError(f"{name!r} holds {what} ({shown}), which must not be uploaded: remove it")


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Encodes the content of a JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
