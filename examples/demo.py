"""Demonstration in a few minutes: adaptation of a restorer trained on white noise, and a comparison.

    python examples/demo.py [--photos FOLDER | --self_made] [--minutes 3]

Runs `daa adapt` from `examples/white-noise` on unlabeled noisy photos; restores held-out photos with that network
before and after adaptation, and with the bundled `daa-denoise`; prints a table and writes a before/after sheet. The
photos are those of `$DAA_DATA`, if any, or made from scikit-image's.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "examples" / "white-noise"  # trained with examples/configs/white-noise.yaml


@dataclass
class DemoData:
    """Folders of the demo: `clean` for synthetic pairs, `real` to adapt to, `held_out*` to compare on."""

    origin: str
    clean: list[Path]
    real: Path
    held_out: Path
    held_out_clean: Path | None


def find_data(output: Path, photos: str | None, self_made: bool = False) -> DemoData:
    """Returns the user's photos, else the photos in `$DAA_DATA`, else self-made ones."""
    data = Path(os.environ.get("DAA_DATA", ROOT.parent / "shared" / "data"))
    renoir = data / "real_noise" / "renoir"
    found = renoir.is_dir() and (data / "clean").is_dir() and not self_made
    if found and not photos:
        origin = f"RENOIR (real low-light noise, three cameras) from {data}"
        clean = [data / "clean" / "bsds", data / "clean" / "highres"]
        return DemoData(origin, clean, renoir / "train" / "noisy", renoir / "val" / "noisy", renoir / "val" / "clean")

    from daa_diffusers.sources.demo_photos import demo_photos

    made = demo_photos(output / "photos")
    clean = [data / "clean" / "bsds", data / "clean" / "highres"] if found else [made.clean]
    if photos:
        return DemoData(f"your photos in {photos}", clean, Path(photos), Path(photos), None)
    origin = f"scikit-image's photos with simulated camera noise, made in {output / 'photos'}"
    return DemoData(origin, clean, made.real_train_noisy, made.real_val_noisy, made.real_val_clean)


def adapt(data: DemoData, output: Path, minutes: float) -> Path:
    """Adapts the network with `daa adapt`, and returns the folder of the pipeline.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    from daa_diffusers.training.result import START_KEPT

    run = output / time.strftime("run-%Y%m%d-%H%M%S")
    clean = [part for folder in data.clean for part in ("--clean", str(folder))]
    options = [*clean, "--checkpoint", str(START), "--output", str(run), "--minutes", str(minutes)]
    arguments = ["adapt", str(data.real), *options]
    print(f"$ daa {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "daa_diffusers.cli", *arguments])
    if done.returncode != START_KEPT:
        done.check_returncode()
    return run / "pipeline"


def compare(data: DemoData, adapted: Path | None, sheet: Path, most: int = 12, rows_shown: int = 5) -> None:
    """Restores the held-out photos with each checkpoint, prints the table, writes the sheet.

    Args:
        data: folders of the demo.
        adapted: folder of the adapted pipeline; None: compare only the other two.
        sheet: file to write the sheet to.
        most: maximum number of photos to restore.
        rows_shown: maximum number of photos on the sheet.
    """
    from tqdm.auto import tqdm

    from daa_diffusers import DAARestorationPipeline
    from daa_diffusers.errors import UnreadablePhotoError
    from daa_diffusers.evaluation.metrics import psnr, ssim
    from daa_diffusers.evaluation.sheets import contact_sheet
    from daa_diffusers.evaluation.statistics import markdown_table
    from daa_diffusers.photos.reading import list_photos, read_photo, to_float

    checkpoints = {"white noise only": START, "just adapted": adapted, "daa-denoise": "daa-denoise"}
    pipelines = {}
    for name, checkpoint in checkpoints.items():
        if checkpoint is not None:
            pipelines[name] = DAARestorationPipeline.from_pretrained(checkpoint)
            pipelines[name].set_progress_bar_config(disable=True)
    totals: dict[str, list[tuple[float, float]]] = {name: [] for name in ("input", *pipelines)}
    columns = [*totals, *(["ground truth"] if data.held_out_clean else [])]
    rows, captions, titles = [], [], []
    for path in tqdm(list_photos(data.held_out)[:most], desc="restoring", unit="photo"):
        try:
            noisy = to_float(read_photo(path))
            clean = to_float(read_photo(data.held_out_clean / path.name)) if data.held_out_clean else None
        except UnreadablePhotoError as error:
            tqdm.write(f"skipped: {error}")
            continue
        images = {"input": noisy}
        images |= {name: pipe(noisy, output_type="pt").images[0] for name, pipe in pipelines.items()}
        caption = []
        if clean is not None:
            for name, image in images.items():
                score = float(psnr(image, clean, as_uint8=True)), float(ssim(image, clean, as_uint8=True))
                totals[name].append(score)
                caption.append(f"{score[0]:.2f} dB")
            images["ground truth"] = clean
        if len(rows) < rows_shown:
            rows.append(list(images.values()))
            captions.append([*caption, *[""] * (len(images) - len(caption))])
            titles.append(path.stem)
    contact_sheet(rows, columns, titles, sheet, captions=captions, zoom=2)
    if data.held_out_clean:
        table = []
        for name, scores in totals.items():
            means = [sum(values) / len(values) for values in zip(*scores, strict=True)]
            label = "identity (untouched input)" if name == "input" else name
            table.append({"restored with": label, "PSNR (dB)": f"{means[0]:.2f}", "SSIM": f"{means[1]:.4f}"})
        print(f"\n{len(scores)} held-out photos, RGB 8 bit, mean per photo:\n")
        print(markdown_table(table, ["restored with", "PSNR (dB)", "SSIM"]))
    print(f"\nBefore and after: {sheet}")


def main() -> int:
    """Runs the demo; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", help="folder of your own noisy photos to adapt to")
    parser.add_argument("--self_made", action="store_true", help="use self-made photos even if $DAA_DATA has photos")
    parser.add_argument("--minutes", type=float, default=3.0, help="time for the adaptation; 0 skips it")
    parser.add_argument("--output", type=Path, default=Path("outputs") / "demo")
    arguments = parser.parse_args()
    from daa_diffusers.errors import ConfigurationError

    try:
        data = find_data(arguments.output, arguments.photos, arguments.self_made)
        print(f"Photos: {data.origin}")
        adapted = adapt(data, arguments.output, arguments.minutes) if arguments.minutes else None
        compare(data, adapted, (arguments.output / "before_after.png").resolve())
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode  # `daa adapt` has reported the error
    return 0


if __name__ == "__main__":
    sys.exit(main())
