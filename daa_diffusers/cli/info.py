"""`daa info`: description of a checkpoint, read from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import one_line

if TYPE_CHECKING:
    from ..hub.description import Description, Network

app = typer.Typer(add_completion=False)


@app.command()
def info(
    checkpoint: Annotated[str, typer.Argument(help="A bundled name, a folder, a weight or .onnx file, or a Hub id.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub repository.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe a checkpoint: networks, value range, task, license, measured scores, training, precision.

    No weights are downloaded from the Hub. The precision for this machine is determined for local weights only.
    """
    facts = facts_of(checkpoint, revision)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    scores = facts.pop("numbers", None)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value}")
    if scores:
        from ..hub.card import numbers_table

        note = f"\n\n{scores['note']}" if scores.get("note") else ""
        typer.echo(f"\nPSNR in dB, {scores['protocol']}\n{numbers_table(scores)}{note}")


def facts_of(checkpoint: str, revision: str | None = None) -> dict[str, Any]:
    """Returns the description of a checkpoint, JSON-plain.

    Raises:
        CheckpointError: the checkpoint does not exist or cannot be read.
        RepositoryNotFoundError, ...: errors of huggingface_hub are not converted.
    """
    from ..hub.resolving import resolve
    from ..official.folders import is_official_file

    path = Path(checkpoint)
    if path.suffix == ".onnx" and path.is_file():
        return _onnx(path)
    if is_official_file(path):
        return _official(path)
    source = resolve(checkpoint, "checkpoint")
    if source.kind == "file":
        return {"kind": "a restorer's weights", **_weight_file(Path(source.location)), **_precision(source.location)}
    from ..hub.description import describe, describe_repository

    if source.kind == "hub":
        return {
            "kind": f"Hub repository {source.location}",
            **_facts(describe_repository(source.location, revision)),
        }
    return {"kind": "a pipeline", **_facts(describe(Path(source.location))), **_precision(source.location)}


def _precision(location: str) -> dict[str, Any]:
    """Returns the precision of `daa restore --dtype auto` on this machine, chosen by a test image, and the reason."""
    from ..errors import CheckpointError
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline
    from ..pipelines.precision import automatic_precision
    from ..restoring.loading import fastest_device

    device = fastest_device()
    try:
        restorer = DAARestorationPipeline.from_pretrained(Path(location)).to(device).restorer
    except CheckpointError as error:  # the rest of the description is still printed
        return {"precision here": f"unknown: {one_line(str(error))}"}
    choice = automatic_precision(restorer)
    name = str(choice.dtype).removeprefix("torch.") if choice.dtype else "float32"
    return {"precision here": f"{name} on the {device} (--dtype auto): {choice.reason}"}


def _network_line(network: Network) -> str:
    """Describes a network in one line: class, sizes, number of parameters, size of the weights."""
    from ..hub.card import millions, stored_as

    config = network.config
    parts = [network.class_name, *filter(None, [config.get("architecture")])]
    parts += [f"{name} {config[name]}" for name in ("width", "widths", "depth", "blocks") if name in config]
    if network.parameters:
        parts.append(f"{millions(network.parameters)} parameters")
    if network.dtypes:
        parts.append(f"{network.bytes / 1e6:.1f} MB in {stored_as(network)}")
    return ", ".join(parts)


def _facts(description: Description) -> dict[str, Any]:
    """Returns the facts of a description, title -> value."""
    low, high = description.value_range
    restorer, license = description.restorer, description.license
    facts: dict[str, Any] = {
        "task": description.task or "not recorded",
        "restorer": _network_line(restorer),
        "parameters": restorer.parameters,
        "channels": restorer.config.get("channels", 3),
        "value range": f"[{low:g}, {high:g}]",
        "size multiple": restorer.size_multiple,
        "noise predictor": _network_line(description.unet) if description.unet else "none",
        "license": license.key or "unknown",
        "training": _training_line(description.training),
    }
    if license.non_commercial:
        facts["license"] += " (no commercial use)"
    if description.evaluation.get("sets"):
        facts["numbers"] = description.evaluation
    return {name: value for name, value in facts.items() if value is not None}


def _training_line(training: dict[str, Any]) -> str:
    """Describes a training record in one line."""
    from ..hub.record_files import is_adapted

    if "converted_from" in training:
        return "converted from official weights"
    options = training.get("options")
    if not isinstance(options, dict):
        return "not recorded: published weights, converted" if "wrapped_from" in training else "not recorded"
    parts = [f"{training.get('steps')} steps", f"batch {options.get('batch_size')}", f"patch {options.get('patch')}"]
    if is_adapted(training):
        parts.append("adapted to real photos")
    if options.get("init_from"):
        parts.append(f"from {options['init_from']}")
    return ", ".join(parts)


def _described(network: Any, size_multiple: int | None = None) -> Network:
    """Returns the `Network` of a network in memory, with its config as in a file."""
    from ..hub.description import Network

    config = json.loads(json.dumps({**network.config, "_class_name": type(network).__name__}))
    return Network(config, sum(parameter.numel() for parameter in network.parameters()), size_multiple)


def _weight_file(path: Path) -> dict[str, Any]:
    """Returns the facts about a restorer's weight file."""
    from ..hub.description import Description, describe
    from ..hub.single_files import load_restorer

    if path.with_name("config.json").is_file() and path.name.startswith("diffusion_pytorch_model"):
        facts = _facts(describe(path.parent))
        return {name: value for name, value in facts.items() if name != "noise predictor"}
    restorer = load_restorer(path)  # a file without a record
    description = Description(_described(restorer, restorer.size_multiple))
    unknown = ("noise predictor", "training", *(() if description.task else ("task",)))
    return {name: value for name, value in _facts(description).items() if name not in unknown}


def _official(path: Path) -> dict[str, Any]:
    """Returns the facts about a file of official weights."""
    from ..errors import CheckpointError
    from ..hub.description import Description
    from ..hub.licenses import S_LAB
    from ..official.convert import convert_official_state_dict, load_official_file

    try:
        restorer, predictor = convert_official_state_dict(load_official_file(path))
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is not an official checkpoint: {error}") from error
    unet = None if predictor is None else _described(predictor)
    facts = _facts(Description(_described(restorer), unet, {"license": S_LAB.name}))
    unknown = ("value range", "task", "training")  # not in the file: --task of `daa convert` determines the first two
    facts = {name: value for name, value in facts.items() if name not in unknown}
    return {"kind": "an official checkpoint; convert it: daa convert FILE OUT --task ...", **facts}


def _onnx(path: Path) -> dict[str, Any]:
    """Returns the facts about an ONNX file."""
    from ..export import read_facts

    facts = read_facts(path)
    low, high = facts["value_range"]
    return {
        "kind": f"an ONNX file, {path.stat().st_size / 1e6:.1f} MB",
        "restorer": facts.get("class"),
        "channels": facts["channels"],
        "value range": f"[{low:g}, {high:g}]",
        "size multiple": facts["size_multiple"],
        "task": facts.get("task") or "not recorded",
        "license": facts.get("license") or "not stated",
    }
