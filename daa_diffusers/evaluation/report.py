"""Files of an evaluation: a Markdown report, a CSV file of all scores, and contact sheets of three photos per row."""

import csv
import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import ImageDraw

from ..errors import ConfigurationError
from ..files import one_line, write_text
from .folders import restore
from .named_metrics import LABEL_FREE, Column
from .result import IDENTITY, Evaluation
from .sheets import SheetImage, _to_pil, contact_sheet
from .statistics import markdown_table

CROP = 64  # side of the crops in a sheet, in pixels
CELL = 256  # side of a cell in a sheet, in pixels
FEW_PHOTOS = 20  # number of photos below which bootstrap intervals are noticeably too narrow
MARK = (220, 38, 38)  # color of the rectangle that marks the position of the crops


def write_report(
    evaluation: Evaluation, folder: str | os.PathLike[str], *, baseline: str = IDENTITY, sheets: bool = True
) -> Path:
    """Writes `report.md`, `scores.csv` and a contact sheet for each row to a folder, each atomically.

    Args:
        evaluation: result of `evaluate_folder`.
        folder: folder to write to, created if missing.
        baseline: name of the row with which the others are compared, photo by photo.
        sheets: whether to write contact sheets, which requires restoring three photos again for each row.

    Returns:
        The path of `report.md`.

    Raises:
        ConfigurationError: unknown `baseline`.
    """
    folder = Path(folder)
    _check_row(evaluation, "baseline", baseline)
    write_csv(evaluation, folder / "scores.csv")
    names: dict[str, str] = {}
    for row in evaluation.rows if sheets else ():
        if row not in (IDENTITY, baseline):
            names[row] = f"sheet-{len(names) + 1}-{re.sub(r'[^A-Za-z0-9._-]+', '-', row)}.png"
            write_sheet(evaluation, row, folder / names[row], against=baseline)
    text = markdown_report(evaluation, baseline=baseline)
    for row, name in names.items():
        text += f"\n## {row}: best, median and worst photo against {baseline}\n\n![{row}]({name})\n"
    _write(text, folder / "report.md")
    return folder / "report.md"


def write_csv(evaluation: Evaluation, path: str | os.PathLike[str]) -> Path:
    """Writes a line for each photo and row with all scores; PSNR is not capped (inf for identical images)."""
    file = io.StringIO()
    names = [column.name for column in evaluation.columns]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["photo", "row", *names])
    for index, photo in enumerate(evaluation.photos):
        for row in evaluation.rows:
            writer.writerow([photo, row, *(f"{evaluation.scores[row][name][index]:.7g}" for name in names)])
    return _write(file.getvalue(), Path(path))


def markdown_report(evaluation: Evaluation, *, baseline: str = IDENTITY) -> str:
    """Returns tables, protocol and skipped photos as Markdown; raises ConfigurationError for an unknown `baseline`."""
    _check_row(evaluation, "baseline", baseline)
    count, pairs = len(evaluation.photos), evaluation.pairs
    source = f"`{pairs.degraded.name}`" + (f" against `{pairs.clean.name}`" if pairs.clean else ", no ground truth")
    lines = [f"# {count} photos of {source}", "", evaluation.protocol]
    if count > 1:
        lines.append(f"Brackets: 95 % bootstrap interval over the photos; differences are paired, minus `{baseline}`.")
    if 1 < count < FEW_PHOTOS:
        lines.append("With so few photos, intervals are too narrow (5 photos: they cover 85 %, 12: 90 %, 20: 93 %).")
    metrics = [column for column in evaluation.columns if column not in LABEL_FREE]
    if metrics:
        lines += ["", markdown_table([_cells(evaluation, row, metrics, baseline) for row in evaluation.rows])]
    if len(metrics) < len(evaluation.columns):
        lines += ["", _about_gain(evaluation), ""]
        lines.append(markdown_table([_label_free_cells(evaluation, row) for row in evaluation.rows]))
    if evaluation.skipped:
        lines += ["", f"Skipped in every row, {len(evaluation.skipped)} of {len(pairs)} photos:", ""]
        lines += [one_line(f"- `{name}`: {reason}") for name, reason in evaluation.skipped.items()]
    return "\n".join(lines) + "\n"


def _cells(evaluation: Evaluation, row: str, metrics: list[Column], baseline: str) -> dict[str, Any]:
    """Returns the cells of a row of the main table, by column title.

    These are the mean, interval and difference of each metric, and the worst gain in the first metric.
    """
    cells: dict[str, Any] = {"row": row}
    for column in metrics:
        name, spec = column.name, column.spec
        interval = evaluation.interval(row, name)
        bounds = f" [{interval[0]:{spec}}, {interval[1]:{spec}}]" if interval else ""
        cells[column.title] = f"{evaluation.mean(row, name):{spec}}{bounds}"
        difference = evaluation.difference(row, name, baseline) if row != baseline else None
        cells[f"{column.title}, minus {baseline}"] = (
            f"{difference.mean:+{spec}} [{difference.low:+{spec}}, {difference.high:+{spec}}]" if difference else None
        )
    main = evaluation.main
    gains = evaluation.gains(row, main)
    cells["worst photo against identity"] = f"{(main.sign or 1) * gains.min():+{main.spec}}"
    cells["worse than identity"] = f"{int((gains < 0).sum())} of {len(gains)}"
    return cells


def _about_gain(evaluation: Evaluation) -> str:
    """Returns the caption of the label-free table, with the number of photos that are not included and the reasons."""
    kinds = Counter(reason.partition(":")[0] for reason in evaluation.unmeasured.values())
    reasons = "; ".join(f"{kind}: {count}" for kind, count in kinds.most_common())
    excluded = f"{len(evaluation.unmeasured)} of {len(evaluation.photos)} photos"
    if not evaluation.gain_is_known:
        why = f"additive noise cannot be measured in {excluded} ({reasons})"
        return f"Without labels. No gain is estimated, because {why}."
    text = (
        "Without labels: the estimated gain (dB) over the untouched input, and the score to order restorers of the "
        "same noisy photos. Both are valid for additive noise, not for rain or blur."
    )
    return text + (f" They exclude {excluded}, whose noise cannot be measured ({reasons})." if kinds else "")


def _label_free_cells(evaluation: Evaluation, row: str) -> dict[str, Any]:
    """Returns the cells of a row of the label-free table, by column title."""
    cells: dict[str, Any] = {"row": row}
    scores = evaluation.label_free_scores(row)
    if scores is not None:
        gain, score = scores
        cells |= {"estimated gain": f"{gain:+.2f}", "score": f"{score:+.2f}"}
    for column in LABEL_FREE[1:]:  # the first is shown as the gain
        cells[column.title] = f"{evaluation.mean(row, column.name):{column.spec}}"
    return cells


def write_sheet(evaluation: Evaluation, row: str, path: str | os.PathLike[str], *, against: str = IDENTITY) -> Path:
    """Writes a contact sheet of the photos with the best, the median and the worst gain of `row` over `against`.

    Each line shows a photo, and crops of its square of 64 pixels where the squared error increases most from `against`
    to `row`, or, without ground truth, where both differ most. Photos are restored again.

    Args:
        evaluation: result of `evaluate_folder`.
        row, against: names of rows.
        path: path of the PNG file.

    Raises:
        ConfigurationError: unknown row.
    """
    _check_row(evaluation, "row", row)
    _check_row(evaluation, "against", against)
    main = evaluation.main
    gains = evaluation.gains(row, main, against)
    order = gains.argsort()
    # photo -> label; each photo once, if there are fewer than three
    labels = {int(order[0]): "worst", int(order[len(order) // 2]): "median", int(order[-1]): "best"}
    shown = [IDENTITY, *([against] if against != IDENTITY else []), row]  # rows of the evaluation, columns of the sheet
    has_clean = evaluation.pairs.clean is not None
    rows: list[list[SheetImage | None]] = []
    titles, captions = [], []
    for index, label in sorted(labels.items(), key=lambda item: -gains[item[0]]):
        name = evaluation.photos[index]
        rows.append(_crops(evaluation, name, shown, row, against))
        titles.append(f"{label}: {name}")
        values = [evaluation.scores[column][main.name][index] for column in shown]
        texts: list[str | None] = [None, *(f"{value:{main.spec}}" for value in values)]
        captions.append(texts + [None] * has_clean)  # neither the photo nor the clean photo has a score
    columns = ["photo", *shown, *(["clean"] if has_clean else [])]
    title = f"{row} against {against} by {main.title}, {len(evaluation.photos)} photos"
    return contact_sheet(rows, columns, titles, path, captions, CELL, title=title)


def _crops(evaluation: Evaluation, name: str, shown: list[str], row: str, against: str) -> list[SheetImage | None]:
    """Returns the photo with a marked square, and crops of this square from all shown rows and the clean photo."""
    degraded, clean = evaluation.pairs.read(evaluation.pairs.names.index(name))
    photos = {column: restore(evaluation.restorers[column], degraded) for column in shown}
    if clean is None:
        harm = (photos[row] - photos[against]).square()
    else:
        harm = (photos[row] - clean).square() - (photos[against] - clean).square()
    top, left, height, width = _worst_place(harm)
    marked = _to_pil(degraded, name)
    line_width = max(1, round(max(marked.size) / 100))
    ImageDraw.Draw(marked).rectangle((left, top, left + width - 1, top + height - 1), outline=MARK, width=line_width)
    cropped = [*photos.values(), *([] if clean is None else [clean])]
    return [marked, *(photo[:, top : top + height, left : left + width] for photo in cropped)]


def _worst_place(harm: torch.Tensor) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of the square of `CROP` pixels with the largest sum of `harm` (C, H, W)."""
    height, width = (min(CROP, side) for side in harm.shape[1:])
    sums = F.avg_pool2d(harm.mean(0)[None, None], (height, width), stride=1)[0, 0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, height, width


def _check_row(evaluation: Evaluation, argument: str, row: str) -> None:
    """Raises ConfigurationError unless `row`, the value of `argument`, is a row of the evaluation."""
    if row not in evaluation.rows:
        raise ConfigurationError(f"`{argument}` must be one of {', '.join(evaluation.rows)}, got {row!r}")


def _write(text: str, path: Path) -> Path:
    """Writes a text file and, if missing, its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, text)
