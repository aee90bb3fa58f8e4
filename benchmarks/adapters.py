"""How much of a full adaptation does an adapter keep, by kind? On RENOIR, and on PolyU's Canon cameras.

    python benchmarks/adapters.py                  # the full adaptation, and adapters extracted from it
    python benchmarks/adapters.py --trained "lora, rank 8" --trained_sets renoir    # and adapters trained by themselves

The full row is "fitted noise, pseudo-clean" of `adaptation_plan.py`, from `daa-denoise` (the results: from the earlier
`daa-denoise-plain`). Extracted rows are the adapters nearest to it (`adapters.extract`); trained rows take the same
steps on the same photos, at a learning rate that the training pairs of RENOIR choose: `val` is only measured.
Everything that was trained or measured is kept: the command may be stopped and repeated at any time.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import common
import torch
from adaptation_plan import COMMON, DOMAINS, ROWS

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.adapters import AdapterConfig, fingerprint, save_adapter
from daa_diffusers.adapters import extract as nearest
from daa_diffusers.evaluation import psnr
from daa_diffusers.evaluation.folders import restore
from daa_diffusers.evaluation.photo_pairs import PhotoPairs
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text

FORM = ROWS["fitted noise, pseudo-clean"]
BASE, FULL = "base", "full"
EXTRACTED = {
    f"{kind}{f', rank {rank}' if kind == 'lora' else ''}, extracted": (kind, rank)
    for kind, rank in (("bias", 1), ("pointwise", 1), ("lora", 4), ("lora", 8), ("lora", 12))
}
# What is trained, and the learning rates to choose from; that of the full row is as everywhere.
TRAINED: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    FULL: ({}, (COMMON["learning_rate"],)),
    "bias": ({"adapter": "bias"}, (3e-3, 1e-2)),
    "pointwise": ({"adapter": "pointwise"}, (1e-3,)),
    "lora, rank 8": ({"adapter": "lora", "adapter_rank": 8}, (3e-3,)),
}
CANON = "PolyU, Canon: every fifth of the photos that were adapted to, whose clean ones no row has seen"
# Set, part, step between the measured photos, title of the table.
TABLES = (
    ("renoir", "val", 1, "RENOIR, val"),
    ("polyu", "train", 5, CANON),
    ("polyu", "val", 1, "PolyU, val: a Sony, another camera"),
)


def options_of(arguments: argparse.Namespace, name: str, row: str, rate: float) -> dict[str, Any]:
    """The training of one row."""
    domain, data = DOMAINS[name], Path(arguments.data)
    own = {**COMMON, "keep": 1, "steps": arguments.steps, **FORM.options, **TRAINED[row][0], "learning_rate": rate}
    slug = "".join(c if c.isalnum() else "-" for c in row)
    return own | {
        "init_from": domain.start,
        "clean": [str(data / folder) for folder in domain.clean],
        "degradation": domain.degradation,
        "real": [str(data / domain.real)],
        "output_dir": str(Path(arguments.output_dir) / name / f"{slug}-{rate:g}"),
    }


def train(arguments: argparse.Namespace, name: str, row: str, rate: float) -> Path:
    """The folder of a row's run, which is trained, or finished, where it is not yet."""
    options = options_of(arguments, name, row, rate)
    folder = Path(options["output_dir"])
    if (folder / "pipeline" / "model_index.json").exists():  # it is written last
        return folder
    seconds = common.train(folder, options)
    write_text(Path(f"{folder}.json"), json.dumps({"minutes": seconds / 60}))
    print(f"{name}, {row}, {rate:g}: trained in {seconds:.0f} s", flush=True)
    return folder


def extract(arguments: argparse.Namespace, name: str, row: str) -> Path:
    """The folder of an adapter made of the full row."""
    kind, rank = EXTRACTED[row]
    base = DAARestorationPipeline.from_pretrained(DOMAINS[name].start).restorer
    full = train(arguments, name, FULL, TRAINED[FULL][1][0]) / "pipeline"
    updates = nearest(base, DAARestorationPipeline.from_pretrained(full).restorer, kind, rank)
    config = AdapterConfig(kind, fingerprint(dict(base.named_parameters())), rank if kind == "lora" else None)
    return save_adapter(Path(arguments.output_dir) / name / f"extracted-{kind}-{rank}", config, updates)


def scores(arguments: argparse.Namespace, name: str, row: str, part: str, every: int = 1, rate: float = 0) -> dict:
    """PSNR (RGB, 8 bit) by photo, of the base with what the row adds to it; and what a user stores of it."""
    cache = Path(arguments.output_dir) / name / "scores.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    key = f"{row}, {rate:g}, {part}, {every}"
    if key not in known:
        torch.set_num_threads(1)
        pipeline, stored = DAARestorationPipeline.from_pretrained(DOMAINS[name].start), None
        if row in EXTRACTED:
            stored = extract(arguments, name, row)
        elif row != BASE:
            folder = train(arguments, name, row, rate)
            stored = folder / "adapter" if row != FULL else folder / "pipeline" / "restorer"
        if row == FULL:
            pipeline = DAARestorationPipeline.from_pretrained(folder / "pipeline")
        elif stored is not None:
            pipeline.load_adapter(stored)
        pipeline.set_progress_bar_config(disable=True)
        noisy, clean = (Path(arguments.data) / f.replace("/val/", f"/{part}/") for f in DOMAINS[name].val)
        pairs = PhotoPairs(noisy, clean)
        found = {}
        for index in range(0, len(pairs), every):
            degraded, truth = pairs.read(index)
            found[pairs.names[index]] = float(psnr(restore(pipeline, degraded), truth, as_uint8=True))
        size = next(stored.glob("*.safetensors")).stat().st_size if stored else 0
        cache.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(cache.read_text()) if cache.exists() else {}
        write_text(cache, json.dumps({**known, key: {"psnr": found, "bytes": size}}))
        print(f"{name}, {key}: {statistics.fmean(found.values()):.3f} dB", flush=True)
    return json.loads(cache.read_text())[key]


def mean(found: dict) -> float:
    """Mean PSNR of `scores`."""
    return statistics.fmean(found["psnr"].values())


def choose_rate(arguments: argparse.Namespace, row: str) -> tuple[float, list[dict[str, str]]]:
    """The learning rate of a trained row, and what was tried."""
    rates = TRAINED[row][1]
    if len(rates) == 1:
        return rates[0], []
    start = mean(scores(arguments, "renoir", BASE, "train"))
    found = {rate: mean(scores(arguments, "renoir", row, "train", rate=rate)) - start for rate in rates}
    tried = [{"row": row, "rate": f"{rate:g}", "gain on train": f"{gain:+.3f}"} for rate, gain in found.items()]
    return max(rates, key=lambda rate: found[rate]), tried


def minutes_of(arguments: argparse.Namespace, name: str, row: str, rate: float) -> str:
    """What the training of a row took, where it was timed."""
    record = Path(options_of(arguments, name, row, rate)["output_dir"] + ".json") if row in TRAINED else None
    return f"{json.loads(record.read_text())['minutes']:.1f}" if record is not None and record.exists() else ""


def report(arguments: argparse.Namespace) -> str:
    """The tables as Markdown."""
    text = [
        "# Camera adapters: the share of a full adaptation's gain that they keep",
        f"`{arguments.command}`",
        f"The full row: fitted noise and restored photos as clean ones, {arguments.steps} steps of 4 patches of 48 px "
        "from `daa-denoise`, one thread, one seed. Mean of per-image PSNR on RGB, 8 bit. "
        "`kept` is (row - base) / (full - base). `kB` is what is stored for a camera. Extracted adapters are "
        "those nearest to the full row, without training. `minutes` hold other programs' share of the machine.",
    ]
    chosen = {row: choose_rate(arguments, row) for row in [FULL, *arguments.trained]}
    rows = {**{row: rate for row, (rate, _) in chosen.items()}, **dict.fromkeys(EXTRACTED, 0.0)}
    for name, part, every, title in TABLES:
        base = scores(arguments, name, BASE, part, every)
        here = {row: r for row, r in rows.items() if row not in arguments.trained or name in arguments.trained_sets}
        found = {row: scores(arguments, name, row, part, every, rate) for row, rate in here.items()}
        gain = mean(found[FULL]) - mean(base)
        lines = [{"row": BASE, "PSNR": f"{mean(base):.3f}"}]
        for row, of_row in found.items():
            row_gain = mean(of_row) - mean(base)
            wins = sum(of_row["psnr"][photo] > score for photo, score in base["psnr"].items())
            lines.append(
                {
                    "row": row,
                    "PSNR": f"{mean(of_row):.3f}",
                    "gain": f"{row_gain:+.3f}",
                    "kept": f"{100 * row_gain / gain:.0f} %" if gain > 0 else "no gain to keep",
                    "photos above base": f"{wins} of {len(of_row['psnr'])}",
                    "kB": f"{of_row['bytes'] / 1e3:.0f}",
                    "minutes": minutes_of(arguments, name, row, rows[row]),
                }
            )
        columns = ["row", "PSNR", "gain", "kept", "photos above base", "kB", "minutes"]
        text += [f"## {title} ({len(base['psnr'])} photos)", markdown_table(lines, columns)]
    tried = [line for row in arguments.trained for line in chosen[row][1]]
    if tried:
        text += ["## Learning rates", "Chosen by the training pairs of RENOIR.", markdown_table(tried)]
    return "\n\n".join(text) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, "adapters.md", data=True)
    parser.add_argument("--trained", nargs="*", default=[], choices=[row for row in TRAINED if row != FULL])
    parser.add_argument("--trained_sets", nargs="+", default=["renoir", "polyu"], help="where rows of --trained stand")
    parser.add_argument("--steps", type=int, default=COMMON["steps"])
    parser.add_argument("--output_dir", default="outputs/adapters")
    arguments = parser.parse_args(argv)
    arguments.command = common.command(__file__, argv)
    common.publish(arguments.report, report(arguments))


if __name__ == "__main__":
    main()
