"""`daa info`: description of a checkpoint, read from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import one_line

if TYPE_CHECKING:
    from ..hub.description import Description

app = typer.Typer(add_completion=False)


@app.command()
def info(
    checkpoint: Annotated[
        str, typer.Argument(help="A bundled name, a folder, a .safetensors, .pth or .onnx file, or a Hub id.")
    ],
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
    table = facts.pop("numbers", None)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value}")
    if table:
        from ..hub.card import numbers_table

        note = f"\n\n{table['note']}" if table.get("note") else ""
        typer.echo(f"\nPSNR in dB, {table['protocol']}\n{numbers_table(table)}{note}")


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
            **_pipeline(describe_repository(source.location, revision)),
        }
    return {"kind": "a pipeline", **_pipeline(describe(Path(source.location))), **_precision(source.location)}


def _precision(location: str) -> dict[str, Any]:
    """Returns the precision that `daa restore --dtype auto` would use here, and the reason, from a test image."""
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


def _network(network: Any) -> str:
    from ..hub.card import millions, stored_as

    parts = [network.class_name, *filter(None, [network.config.get("architecture")])]
    parts += [
        f"{name} {network.config[name]}" for name in ("width", "widths", "depth", "blocks") if name in network.config
    ]
    if network.parameters:
        parts.append(f"{millions(network.parameters)} parameters")
    if network.dtypes:
        parts.append(f"{network.bytes / 1e6:.1f} MB in {stored_as(network)}")
    return ", ".join(parts)


def _pipeline(description: Description) -> dict[str, Any]:
    low, high = description.value_range
    restorer, license = description.restorer, description.license
    facts: dict[str, Any] = {
        "task": description.task or "not recorded",
        "restorer": _network(restorer),
        "parameters": restorer.parameters,
        "channels": restorer.config.get("channels", 3),
        "value range": f"[{low:g}, {high:g}]",
        "size multiple": restorer.size_multiple,
        "noise predictor": _network(description.unet) if description.unet else "none",
        "license": license.key or "unknown",
        "training": _training(description.training),
    }
    if license.non_commercial:
        facts["license"] += " (no commercial use)"
    if description.evaluation.get("sets"):
        facts["numbers"] = description.evaluation
    return {name: value for name, value in facts.items() if value is not None}


def _training(training: dict[str, Any]) -> str:
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


def _weight_file(path: Path) -> dict[str, Any]:
    from ..hub.description import Description, Network, describe
    from ..hub.single_files import load_restorer

    if path.with_name("config.json").is_file() and path.name.startswith("diffusion_pytorch_model"):
        facts = _pipeline(describe(path.parent))
        return {name: value for name, value in facts.items() if name != "noise predictor"}
    restorer = load_restorer(path)
    config = json.loads(json.dumps({**restorer.config, "_class_name": type(restorer).__name__}))
    parameters = sum(parameter.numel() for parameter in restorer.parameters())
    facts = _pipeline(Description(Network(config, parameters, restorer.size_multiple)))
    return {name: value for name, value in facts.items() if name not in ("noise predictor", "training", "task")}


def _official(path: Path) -> dict[str, Any]:
    from ..errors import CheckpointError
    from ..hub.description import Description, Network
    from ..hub.licenses import S_LAB
    from ..official.convert import convert_official_state_dict, load_official_file

    try:
        networks = convert_official_state_dict(load_official_file(path))
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} is not an official checkpoint: {error}") from error
    described = [
        None
        if network is None
        else Network(
            {**network.config, "_class_name": type(network).__name__}, sum(p.numel() for p in network.parameters())
        )
        for network in networks
    ]
    assert described[0] is not None
    facts = _pipeline(Description(described[0], described[1], {"license": S_LAB.name, "converted_from": []}))
    hidden = ("value range", "task", "training")  # unknown: they depend on the task, which the file does not state
    facts = {name: value for name, value in facts.items() if name not in hidden}
    return {"kind": "an official checkpoint; convert it: daa convert FILE OUT --task ...", **facts}


def _onnx(path: Path) -> dict[str, Any]:
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
