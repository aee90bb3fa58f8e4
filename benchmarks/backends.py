"""Restorers on a CPU by each library at hand: seconds a megapixel beside torch in float32, and the price in decibels.

    python benchmarks/backends.py --threads 1 2 --report benchmarks/results/backends.md

The middle of photos of val of RENOIR and PolyU in $DAA_DATA, all ways in turn on each photo: a ratio is of one turn.
Torch runs the network in strips, as the pipeline does, and, where the row says so, by its own layers. int8 is
calibrated on noisy photos of train, without ground truth, as on a user's own. OpenVINO's rows need `pip install
openvino nncf`, and are left out without. Read processor seconds where other programs run.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import common
import numpy as np
import torch
from torch import nn

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.export import INPUT, export_onnx
from daa_diffusers.models.restorer import RestorerContract
from daa_diffusers.photos.pixels import center_crop, unit_float
from daa_diffusers.pipelines.passes import restore_batch, restore_strips
from daa_diffusers.pipelines.precision import automatic_precision
from daa_diffusers.pipelines.strips import plan_strips, strips_of
from daa_diffusers.sources.folders import PhotoFolder

SETS = ("renoir", "polyu")
PHOTOS = 5  # of val of each set
CALIBRATED_ON = 8  # photos of train of each set
EXACT, MIXED = "torch float32", "torch bfloat16"  # what `auto` chooses from
MOST = 0.02  # decibels that a way may lose
Way = Callable[[torch.Tensor], torch.Tensor]  # (1, C, H, W) in the restorer's range


def crops(data: Path, part: str, kind: str, most: int, side: int) -> dict[str, torch.Tensor]:
    """The middle of photos spread over each set, (N, 3, side, side) in [0, 1]."""
    found = {}
    for name in SETS:
        folder = PhotoFolder(data / "real_noise" / name / part / kind)
        found[name] = torch.stack([unit_float(center_crop(folder.photo(i), side)) for i in folder.spread(most)])
    return found


def torch_ways(restorer: nn.Module, compiled: bool) -> dict[str, Way]:
    """Torch as the pipeline calls it (in strips, where the network has them), by its own layers, and compiled."""
    networks: dict[str, Callable] = {"torch bfloat16, by layer": restorer}
    if compiled:
        torch.compiler.reset()  # the number of threads is part of the code
        networks["torch bfloat16, compiled"] = torch.compile(restorer, options={"freezing": True})

    kind, multiple = strips_of(restorer), RestorerContract.of(restorer).size_multiple

    @torch.no_grad()
    def pipeline(batch: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        if kind is None:
            return restore_batch(restorer, batch, [0], mixed=dtype)
        strips, planned = kind(restorer, batch.shape[2]), plan_strips((batch.shape[2], batch.shape[3]), multiple)
        batches = (batch[:, :, rows] for rows in planned)
        return torch.cat([*restore_strips(restorer, strips, batches, [0], mixed=dtype)], 2)

    def way(network: Callable) -> Way:
        @torch.no_grad()
        def run(batch: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return network(batch.contiguous(memory_format=torch.channels_last))

        return run

    chosen = {EXACT: partial(pipeline, dtype=None), MIXED: partial(pipeline, dtype=torch.bfloat16)}
    return chosen | {name: way(network) for name, network in networks.items()}


def onnx_ways(path: Path, photos: list[np.ndarray], threads: int) -> dict[str, Way]:
    """ONNX Runtime with the exported network, and with it in int8, except the first and the last convolution."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        left = iter(photos)

        def get_next(self) -> dict | None:
            photo = next(self.left, None)
            return None if photo is None else {INPUT: photo}

    quantized = path.with_suffix(".int8.onnx")
    if not quantized.exists():
        layers = [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"][1:-1]
        kind = {"quant_format": QuantFormat.QDQ, "per_channel": True}
        quantize_static(path, quantized, Reader(), nodes_to_quantize=layers, **kind)

    def way(file: Path) -> Way:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the others' turns are not disturbed
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda batch: torch.from_numpy(session.run(None, {INPUT: batch.numpy()})[0])

    return {"ONNX Runtime float32": way(path), "ONNX Runtime int8": way(quantized)}


def openvino_ways(path: Path, photos: list[np.ndarray], threads: int, side: int) -> dict[str, Way]:
    """OpenVINO with the exported network in each precision; what is not quantized in int8 (see above) is bfloat16."""
    import nncf
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape([1, photos[0].shape[1], side, side])
    file = path.with_suffix(".int8.xml")
    if not file.exists():
        layers = [node for node in network.get_ordered_ops() if node.get_type_name() == "Convolution"]
        wide = nncf.IgnoredScope(names=[layers[end].get_friendly_name() for end in (0, -1)])
        options = {"subset_size": len(photos), "ignored_scope": wide}
        quantized = nncf.quantize(network, nncf.Dataset(photos), preset=nncf.QuantizationPreset.MIXED, **options)
        openvino.save_model(quantized, file, compress_to_fp16=False)

    def way(model: openvino.Model, precision: str) -> Way:
        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        request = core.compile_model(model, "CPU", hints).create_infer_request()
        return lambda batch: torch.from_numpy(request.infer([batch.numpy()])[0])

    return {
        "OpenVINO float32": way(network, "f32"),
        "OpenVINO bfloat16": way(network, "bf16"),
        "OpenVINO int8": way(core.read_model(file), "bf16"),
    }


def ways_of(restorer: nn.Module, arguments: argparse.Namespace, threads: int, folder: Path) -> dict[str, Way]:
    """All ways, by name; files are made in `folder` once."""
    torch.set_num_threads(threads)
    ways = torch_ways(restorer, not arguments.no_compile)
    path = folder / "restorer.onnx"
    if not path.exists():
        export_onnx(restorer, path)
    contract = RestorerContract.of(restorer)
    noisy = crops(arguments.data, "train", "noisy", CALIBRATED_ON, arguments.side)
    photos = [contract.to_range(photo)[None].numpy() for photo in torch.cat([*noisy.values()])]
    ways |= onnx_ways(path, photos, threads)
    if find_spec("openvino") and find_spec("nncf"):
        ways |= openvino_ways(path, photos, threads, arguments.side)
    return ways


def quality(ways: dict[str, Way], contract: RestorerContract, arguments: argparse.Namespace) -> dict[str, dict]:
    """Of each way: decibels of each set, and the largest and mean deviation from float32, in levels of 255."""
    noisy, clean = (crops(arguments.data, "val", kind, PHOTOS, arguments.side) for kind in ("noisy", "clean"))
    found: dict[str, dict] = {}
    exact: dict[str, torch.Tensor] = {}
    for name, way in ways.items():
        restored = {
            each: torch.cat([contract.from_range(way(contract.to_range(photo[None]))).clone() for photo in photos])
            for each, photos in noisy.items()
        }
        exact = exact or restored
        scores = {each: float(psnr(restored[each], clean[each], as_uint8=True).mean()) for each in SETS}
        differences = 255 * torch.cat([(restored[each] - exact[each]).abs().flatten() for each in SETS])
        found[name] = {**scores, "largest": float(differences.max()), "mean": float(differences.mean())}
    return found


def seconds_of(ways: dict[str, Way], contract: RestorerContract, arguments: argparse.Namespace) -> dict[str, list]:
    """Seconds of the clock and of the processor of each way, turn by turn, a photo to a turn."""
    photos = torch.cat([*crops(arguments.data, "val", "noisy", PHOTOS, arguments.side).values()])
    spent: dict[str, list] = {name: [] for name in ways}
    for turn in range(arguments.repeats + 1):
        batch = contract.to_range(photos[turn % len(photos)])[None]
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            seconds = common.timed(partial(ways[name], batch))
            if turn:  # the first warms up
                spent[name].append(seconds)
    return spent


def times(spent: dict[str, list], name: str, other: str, clock: int) -> str:
    """How many times as fast a way is as another: median and range over the turns."""
    each = [b[clock] / a[clock] for a, b in zip(spent[name], spent[other], strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def table(spent: dict[str, list], scores: dict[str, dict], megapixels: float) -> list[dict[str, str]]:
    rows = []
    for name, seconds in spent.items():
        lost = {each: scores[name][each] - scores[EXACT][each] for each in SETS}
        rows.append(
            {
                "": name,
                "s / MP": f"{statistics.median(wall for wall, _ in seconds) / megapixels:.3f}",
                "times float32's speed": times(spent, name, EXACT, 0),
                "by processor s": times(spent, name, EXACT, 1),
                "times bfloat16's": times(spent, name, MIXED, 1),
                **{
                    f"{each}, dB": f"{scores[name][each]:.2f}" if name == EXACT else f"{lost[each]:+.3f}"
                    for each in SETS
                },
                "within": "yes" if min(lost.values()) >= -MOST else "no",
                "differs by at most": f"{scores[name]['largest']:.2f}",
                "on average": f"{scores[name]['mean']:.3f}",
            }
        )
    return rows


def conclusion(spent: dict[str, list], scores: dict[str, dict]) -> str:
    """The fastest way without a loss, and the fastest that `auto` may choose."""
    allowed = [name for name in spent if min(scores[name][each] - scores[EXACT][each] for each in SETS) >= -MOST]
    fastest = min(allowed, key=lambda name: statistics.median(processor for _, processor in spent[name]))
    return (
        f"Fastest within {MOST} dB: {fastest}, {times(spent, fastest, MIXED, 1)} times as fast as {MIXED} by processor "
        f"seconds, {times(spent, fastest, EXACT, 1)} times as fast as {EXACT}."
    )


def checkpoint_report(checkpoint: str, arguments: argparse.Namespace) -> list[str]:
    """The part of the report on a checkpoint: a table for each number of threads."""
    restorer = DAARestorationPipeline.from_pretrained(checkpoint).restorer.eval()
    contract, scores = RestorerContract.of(restorer), {}
    automatic = automatic_precision(restorer)
    dtype = str(automatic.dtype or torch.float32).removeprefix("torch.")
    size = sum(parameter.numel() for parameter in restorer.parameters()) / 1e6
    facts = f"`{type(restorer).__name__}`, {size:.2f} M parameters. `auto` is {dtype}: {automatic.reason}."
    text = [f"## {Path(checkpoint).stem}", facts]
    with tempfile.TemporaryDirectory() as folder:
        for threads in arguments.threads:
            ways = ways_of(restorer, arguments, threads, Path(folder))
            scores = scores or quality(ways, contract, arguments)
            spent = seconds_of(ways, contract, arguments)
            rows = table(spent, scores, arguments.side**2 / 1e6)
            text += [f"{threads} thread(s):", markdown_table(rows, list(rows[0])), conclusion(spent, scores)]
            print(*text[-3:], sep="\n\n", flush=True, file=sys.stderr)
    return text


def main() -> None:
    parser = common.parser(__doc__, data=True)
    parser.add_argument("--checkpoints", nargs="+", default=["daa-denoise", "daa-deblur"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=512, help="pixels, of the middle of each photo")
    parser.add_argument("--repeats", type=int, default=10, help="turns; photos come again")
    parser.add_argument("--no_compile", action="store_true", help="without torch.compile, which needs a C++ compiler")
    arguments = parser.parse_args()
    tables = [part for checkpoint in arguments.checkpoints for part in checkpoint_report(checkpoint, arguments)]
    common.publish(
        arguments.report,
        "# Restorers on a CPU by library and precision",
        f"`{common.command(__file__)}`",
        common.machine("onnxruntime", "openvino", "nncf"),
        f"The middle {arguments.side} px of {PHOTOS} photos of val of each set, one at a time, {arguments.repeats} "
        "turns; medians (range). Speed is by the clock; its second column and that beside bfloat16 are by processor "
        "seconds, which other programs disturb less. PSNR of 8 bit, mean per photo: of float32, and the differences "
        f"from it; within: a loss of at most {MOST} dB. Deviations from float32 are in levels of 255. int8 leaves out "
        "the first and the last convolution.",
        f"`auto` chooses between {EXACT} and {MIXED} only: they need no package beside torch, no compiler and no model "
        "compiled for each size of a photo, and they restore large photos in strips without computing a pixel twice. "
        "OpenVINO has no such strips: the overlap of tiles of 1024 px, at a receptive radius of 67 px, is 35 % more "
        "pixels, which leaves little of its gain on large photos, where time matters. int8 loses too much with "
        "calibration alone.",
        *tables,
    )


if __name__ == "__main__":
    main()
