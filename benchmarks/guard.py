"""What the guard costs on noisy photos, and what it saves on clean ones and on those that a restorer makes worse.

    python benchmarks/guard.py --checkpoints daa-denoise daa-denoise-research --report benchmarks/results/guard.md

Noisy sets have the clean photos of `real_noise/*/val` as their reference, clean sets the photos themselves: every
eighth of `clean/bsds` and every second of `clean/highres`, beginning with the second (those beginning with the first,
and `real_noise/*/train`, are what the guard was set on, `--split train`), and the references of the noisy sets, which
no restorer was trained on. The `val` photos of RENOIR and SIDD were looked at once more, to choose between settings
that do equally well on `train`; those of the other sets were not. "White noise" is drawn onto the clean sets, with a
standard deviation of 15/255; "JPEG" is the same photos saved as cameras do, quality 92 with color at half the size.
Photos above 768 pixels are cut to their middle. Every photo's numbers are written beside the report, as CSV.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from PIL import Image

from daa_diffusers import DAARestorationPipeline
from daa_diffusers.evaluation.metrics import psnr
from daa_diffusers.evaluation.statistics import markdown_table
from daa_diffusers.files import write_text
from daa_diffusers.photos.reading import list_photos, read_photo

NOISY = ("renoir", "sidd_small", "polyu")
CLEAN = {"bsds": 8, "highres": 2}  # of how many photos one is taken
JPEG = ", JPEG"  # as cameras and telephones write them: quality 92, color at half the size
WHITE = 15  # standard deviation, 1/255, of the noise that is drawn onto clean photos
LARGEST = 768
NUMBERS = ("identity", "without", "with", "strength", "change", "brightness", "colour")
IDENTICAL = 100.0  # dB, in the place of infinity
SETS = [*NOISY, *(f"{name}, white noise" for name in CLEAN), *CLEAN, *(f"{name}, clean" for name in NOISY)]
SETS += [name + JPEG for name in SETS]


def photos(data: Path, name: str, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, photo, reference) of a set; of ", JPEG", the photos, and clean ones as reference, saved as that."""
    if name.endswith(JPEG):
        clean = is_clean(name)
        for photo_name, photo, reference in photos(data, name.removesuffix(JPEG), split):
            photo = as_jpeg(photo)
            yield photo_name, photo, photo if clean else reference
        return
    if name.endswith(", white noise"):
        draw = np.random.default_rng(0)
        for photo_name, photo, _ in photos(data, name.removesuffix(", white noise"), split):
            noisy = photo + WHITE * draw.standard_normal(photo.shape)
            yield photo_name, noisy.clip(0, 255).round().astype(np.uint8), photo
        return
    if name in CLEAN:
        paths = list_photos(data / "clean" / name)[split == "val" :: CLEAN[name]]
        pairs = [(path, path) for path in paths]
    elif name.endswith(", clean"):
        pairs = [(path, path) for path in list_photos(data / "real_noise" / name[:-7] / split / "clean")]
    else:
        folder = data / "real_noise" / name / split
        clean = {path.stem: path for path in list_photos(folder / "clean")}
        pairs = [(path, clean[path.stem]) for path in list_photos(folder / "noisy")]
    for path, reference in pairs:
        yield path.name, middle(read_photo(path)), middle(read_photo(reference))


def is_clean(name: str) -> bool:
    """Whether a set is of clean photos."""
    name = name.removesuffix(JPEG)
    return name in CLEAN or name.endswith(", clean")


def as_jpeg(photo: np.ndarray) -> np.ndarray:
    """What a camera's JPEG keeps of it."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=92, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.asarray(image)


def middle(photo: np.ndarray) -> np.ndarray:
    """At most `LARGEST` pixels high and wide."""
    top, left = (max(0, side - LARGEST) // 2 for side in photo.shape[:2])
    return photo[top : top + LARGEST, left : left + LARGEST]


def score(photo: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB, at most `IDENTICAL`."""
    return min(IDENTICAL, float(psnr(photo, reference)))


def measure(pipeline: DAARestorationPipeline, data: Path, name: str, split: str) -> list[dict]:
    """One row for each photo of a set."""
    rows = []
    for photo_name, photo, reference in photos(data, name, split):
        result = pipeline(photo, output_type="np", guard=True)
        verdict, with_guard = result.guard[0], result.images[0]
        without = with_guard if verdict.strength == 1 else pipeline(photo, output_type="np").images[0]
        row = {"set": name, "photo": photo_name, "identity": score(photo, reference)}
        row |= {"without": score(without, reference), "with": score(with_guard, reference)}
        rows.append(
            row
            | {"strength": verdict.strength, "reason": verdict.reason, "change": verdict.change}
            | {"brightness": verdict.brightness, "colour": verdict.colour}
        )
    return rows


def summary(name: str, rows: list[dict]) -> dict[str, str]:
    """One line of the table."""

    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in rows]))

    line = {"set": name, "photos": str(len(rows)), "without": f"{mean('without'):.2f}", "with": f"{mean('with'):.2f}"}
    line["strength 1 / between / 0"] = " / ".join(
        str(sum(chosen(row["strength"]) for row in rows))
        for chosen in (lambda s: s == 1, lambda s: 0 < s < 1, lambda s: s == 0)
    )
    if not is_clean(name):
        line |= {"identity": f"{mean('identity'):.2f}", "cost, dB": f"{mean('without') - mean('with'):.3f}"}
        for key in ("without", "with"):
            against = [row[key] - row["identity"] for row in rows]
            worse = [gain for gain in against if gain < -0.05]
            line[f"worse than identity {key}"] = f"{len(worse)}, at worst {min(against):+.2f}"
    else:
        worst = min(rows, key=lambda row: row["with"])
        line["lowest with"] = f"{worst['with']:.2f}"
        line["below 45 dB with"] = str(sum(row["with"] < 45 for row in rows))
    return line


def main() -> None:
    parser = common.parser(__doc__, data=True)
    parser.add_argument("--checkpoints", nargs="+", default=["daa-denoise", "daa-denoise-research"])
    parser.add_argument("--split", default="val", choices=["train", "val"])
    parser.add_argument("--sets", nargs="+", default=SETS)
    arguments = parser.parse_args()
    text = [
        "# The guard",
        "",
        f"`{common.command(__file__)}`",
        "",
        __doc__.split("\n\n")[2].strip(),
    ]
    csv = ["checkpoint,set,photo,identity,without,with,strength,change,brightness,colour,reason"]
    for checkpoint in arguments.checkpoints:
        pipeline = DAARestorationPipeline.from_pretrained(checkpoint)
        pipeline.set_progress_bar_config(disable=True)
        noisy, clean = [], []
        for name in arguments.sets:
            rows = measure(pipeline, arguments.data, name, arguments.split)
            table = clean if is_clean(name) else noisy
            table.append(summary(name, rows))
            print(table[-1], flush=True)
            for row in rows:
                numbers = [f"{row[key]:.3f}" for key in NUMBERS]
                csv.append(",".join([checkpoint, f'"{name}"', row["photo"], *numbers, f'"{row["reason"]}"']))
        text += [
            "",
            f"## {checkpoint}",
            "",
            "Noisy photos: PSNR (dB) against the clean ones, RGB uint8, mean of images.",
        ]
        text += ["", markdown_table(noisy, list(noisy[0])) if noisy else ""]
        text += ["", "Clean photos: PSNR (dB) of the result against the photo itself; an unchanged one counts as 100."]
        text += ["", markdown_table(clean, list(clean[0])) if clean else ""]
    common.publish(arguments.report, "\n".join(text))
    if arguments.report:
        write_text(arguments.report.with_suffix(".csv"), "\n".join(csv) + "\n")


if __name__ == "__main__":
    main()
