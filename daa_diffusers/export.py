"""Export of restorers to ONNX, and use of ONNX files as restorers (extra: pip install 'daa-diffusers[onnx]')."""

import json
import logging
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from .errors import CheckpointError, ConfigurationError
from .files import replacing
from .hub.untrusted import check_bounds
from .models.forward import check_batch
from .models.restorer import RestorerContract, unwrapped

logger = logging.getLogger(__name__)

METADATA = "daa_diffusers"  # key in the ONNX metadata for the restorer's contract
INPUT, OUTPUT = "degraded", "restored"
MAX_ERROR = 1e-4  # maximum difference between torch and ONNX Runtime, in [0, 1]; typical values are below 1e-5
# Advice for networks that cannot be exported, such as those with windowed attention.
_ADVICE = (
    "Restore with torch instead (`--backend torch`, the default). Networks of convolutions, such as DnCNN, DRUNet, "
    "NAFNet and the U-Net of this package, can be exported, also after adaptation"
)
# (batch, height, width), the last two in size multiples, at which the ONNX file is compared with the network: smallest,
# and other than the (2, 3, 4) of the export.
_CHECKED_SIZES = ((1, 1, 1), (1, 3, 2), (2, 2, 5))


def export_onnx(restorer: nn.Module, path: str | os.PathLike[str], *, check: bool = True) -> Path:
    """Exports a restorer to an ONNX file with dynamic batch size, height and width.

    The file contains the weights, and as metadata the contract of the restorer (channels, value range, size multiple).

    Args:
        restorer: network that maps (B, C, H, W) to (B, C, H, W), float32, in its value range; H and W multiples of its
            `size_multiple`.
        path: output file in an existing folder, ending in .onnx.
        check: compare the results of ONNX Runtime and torch at three sizes before the file is written.

    Returns:
        The path.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ConfigurationError: `path` is not an .onnx file in an existing folder, the restorer cannot be exported for all
            sizes, or (with `check`) the results differ by more than 1e-4 of the value range.
    """
    path = Path(path)
    if path.suffix != ".onnx" or not path.parent.is_dir():
        raise ConfigurationError(f"`path` must end in .onnx, in an existing folder, got {str(path)!r}")
    _require("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    network = unwrapped(restorer)
    facts = _facts(network)
    training, dtype = network.training, _dtype(network)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        _move(network, torch.device("cpu"), torch.float32).eval()
        model = _export(network, facts["channels"], facts["size_multiple"])
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA, json.dumps(facts)
        content = model.SerializeToString()
        if check:
            _compare(network, content, facts)
    finally:
        _move(network, device, dtype).train(training)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _export(network: nn.Module, channels: int, multiple: int) -> Any:
    """Converts a network to an `onnx.ModelProto`."""
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 2: multiple * rows, 3: multiple * columns},)
    example = torch.zeros(2, channels, 3 * multiple, 4 * multiple)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings of the exporter
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except ImportError:  # a broken installation
        raise
    except Exception as error:  # the exporter raises exceptions of any type
        raise _not_for_all_sizes(network, error) from error
    assert program is not None
    return program.model_proto


def _not_for_all_sizes(network: nn.Module, error: Exception) -> ConfigurationError:
    reason = str(error).strip().splitlines()
    return ConfigurationError(
        f"`restorer` {type(network).__name__} cannot be exported for every batch, height and width: "
        f"{(reason[0] if reason else type(error).__name__).rstrip('.')}. {_ADVICE}"
    )


def _compare(network: nn.Module, content: bytes, facts: dict[str, Any]) -> None:
    """Raises ConfigurationError if ONNX Runtime and torch give different results for random photos."""
    session = _session(content, 1)
    low, high = facts["value_range"]
    generator = torch.Generator().manual_seed(0)
    for batch, rows, columns in _CHECKED_SIZES:
        shape = (batch, facts["channels"], rows * facts["size_multiple"], columns * facts["size_multiple"])
        photos = low + (high - low) * torch.rand(shape, generator=generator)
        try:
            with torch.no_grad():
                expected = network(photos)
        except RuntimeError as error:
            raise _not_for_all_sizes(network, error) from error
        (computed,) = session.run(None, {INPUT: photos.numpy()})
        difference = np.abs(computed - expected.numpy()).max() / (high - low) if computed.shape == shape else np.inf
        if not difference <= MAX_ERROR:
            raise ConfigurationError(
                f"`restorer` and its ONNX export differ by {difference:.1e} at {shape}, the tolerance is "
                f"{MAX_ERROR:g}. {_ADVICE}"
            )


def _facts(network: nn.Module) -> dict[str, Any]:
    """Returns the metadata of an ONNX file: class and contract of the restorer, without unknown entries."""
    contract = RestorerContract.of(network)
    facts = {
        "class": type(network).__name__,
        "channels": contract.channels,
        "value_range": list(contract.value_range),
        "size_multiple": contract.size_multiple,
        "receptive_radius": contract.receptive_radius,
        "task": contract.task,
        "license": contract.license,
    }
    return {name: value for name, value in facts.items() if value is not None}


def read_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the metadata that `export_onnx` wrote: class, channels, value_range, size_multiple, ...

    Raises:
        ImportError: the extra `onnx` is not installed.
        CheckpointError: not an ONNX file, or not written by `export_onnx`.
    """
    return _facts_of(_open(Path(path), 1), Path(path))


def _facts_of(session: Any, path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        low, high = (float(value) for value in facts["value_range"])
        sizes = {name: int(facts[name]) for name in ("channels", "size_multiple")}
        are_texts = all(isinstance(facts.get(name), str | None) for name in ("task", "license"))
        if not low < high or min(sizes.values()) < 1 or not are_texts:
            raise ValueError("value_range, channels, size_multiple, task or license")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)!r} was not made by export_onnx: its metadata has no valid {error}"
        ) from error
    check_bounds(facts, str(path))
    return {**facts, **sizes, "value_range": [low, high]}


class OnnxRestorer(nn.Module):
    """Restorer that runs an ONNX file with ONNX Runtime on the CPU, for a `DAARestorationPipeline`.

    Args:
        path: file written by `export_onnx`.
        threads: number of threads per pass. None: as many as torch uses.

    Attributes:
        config: `channels`, `value_range`, `task` and `license` of the exported restorer.
        size_multiple: integer of which height and width of an input must be multiples.
        receptive_radius: receptive radius of the exported restorer; absent if unknown.

    Raises:
        ImportError: the extra `onnx` is not installed.
        CheckpointError: not an ONNX file, or not written by `export_onnx`.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None):
        super().__init__()
        self._path = Path(path)
        self._session = _open(self._path, threads or torch.get_num_threads())
        facts = _facts_of(self._session, self._path)
        entries = ("channels", "value_range", "task", "license")
        self.config = SimpleNamespace(**{name: facts.get(name) for name in entries})
        self.size_multiple: int = facts["size_multiple"]
        if "receptive_radius" in facts:
            self.receptive_radius = int(facts["receptive_radius"])
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restores a batch (B, C, H, W), float32, in `config.value_range`; H and W multiples of `size_multiple`.

        Raises:
            ValueError: wrong dtype, rank, number of channels, or size.
        """
        check_batch(x, self.config.channels, self.size_multiple)
        if x.dtype != torch.float32:
            raise ValueError(f"`x` must be float32, got {x.dtype}")
        pixels = np.ascontiguousarray(x.detach().cpu().numpy())
        (restored,) = self._session.run(None, {INPUT: pixels})
        return torch.from_numpy(restored).to(x.device)


def _open(path: Path, threads: int) -> Any:
    """Returns an `onnxruntime.InferenceSession` of a file."""
    _require("onnxruntime")
    if not path.is_file():
        raise CheckpointError(f"`path` must be an existing .onnx file, got {str(path)!r}")
    try:
        return _session(path.read_bytes(), threads)
    except Exception as error:  # ONNX Runtime raises its own exception types
        raise CheckpointError(f"{str(path)!r} is not a readable ONNX file: {error}") from error


def _session(content: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # from memory, so that references to other files (external data) are not resolved
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _require(*packages: str) -> None:
    """Raises ImportError unless all packages are installed."""
    import importlib.util

    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'daa-diffusers[onnx]'")


def _move(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Moves a network to a device and dtype, without a cast if it has the dtype already."""
    network.to(device)
    return network if _dtype(network) == dtype else network.to(dtype)


def _dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
