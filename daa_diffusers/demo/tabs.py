"""The tabs of the page: components, and callbacks that hand the work on and say what became of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError, UnreadablePhotoError
from ..restoring.work import FAILED, Options
from .adapt_job import Adaptation, Progress
from .restore_job import CROP, Work, describe, views

if TYPE_CHECKING:
    import gradio

logger = logging.getLogger(__name__)

PLOTS = {  # title -> losses of the log
    "Synthetic photos": ("pair", "untouched"),
    "Noise prediction": ("noise", "adaptation"),
}
ZOOMS = ("Whole photo", "100 %", "200 %")


def _options(strength: float, guard: bool, ensemble: bool, location: bool) -> Options:
    if not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise ConfigurationError(f"the strength must be from 0 to 1, got {strength!r}")
    return Options(strength=strength, guard=guard, self_ensemble=ensemble, strip_location=location)


def _said(error: Exception) -> str:
    """What a person is told of an error; of one that nobody expects only its kind, the rest is logged."""
    if isinstance(error, ConfigurationError | CheckpointError | UnreadablePhotoError):
        return str(error)
    logger.error("the page's request failed", exc_info=error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


# --- one photo ---


def photo_tab(work: Work, options: list[Any]) -> None:
    """One photo: restore, compare, look closely, download."""
    import gradio as gr

    from ..sources.demo_photos import noisy_photos

    examples = [str(path) for path in noisy_photos(work.folder / "examples")]
    pair = gr.State()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            file = gr.File(label="Photo", height=150, elem_id="photo")
            start = gr.Button("Restore", variant="primary", elem_id="restore")
            shown = gr.Dataset(
                label="Examples: free photos with made camera noise",
                components=[gr.Image(render=False)],
                samples=[[path] for path in examples],
                type="index",
            )
            report = gr.Textbox(label="Report", lines=1, max_lines=8, interactive=False, elem_classes="report")
            result = gr.File(label="Restored photo", interactive=False, visible=False, elem_id="result")
        with gr.Column(scale=2, min_width=320):
            slider = gr.ImageSlider(
                label="Before and after",
                type="filepath",
                interactive=False,
                width=CROP[0],
                max_height=560,
                buttons=["fullscreen"],
            )
            zoom = gr.Radio(ZOOMS, value=ZOOMS[0], type="index", show_label=False, visible=False, elem_id="zoom")
            with gr.Row(visible=False) as place:
                across = gr.Slider(0, 100, 50, step=1, label="Across (%)", min_width=140)
                down = gr.Slider(0, 100, 50, step=1, label="Down (%)", min_width=140)

    def restore(path: str | None, name: str, *asked: Any):
        nothing = {
            pair: None,
            slider: None,
            result: gr.update(value=None, visible=False),
            zoom: gr.update(visible=False),
        }
        nothing[place] = gr.update(visible=False)
        try:
            record, files = work.restore(path or "", name, _options(*asked))
            if files is None:
                return nothing | {report: describe(record)}
            pictures = views(files, 0)
        except Exception as error:  # one bad photo never stops the page
            return nothing | {report: _said(error)}
        return {
            pair: files,
            slider: gr.update(value=tuple(map(str, pictures)), width=None),
            report: describe(record),
            result: gr.update(value=files.after, visible=True),
            zoom: gr.update(value=ZOOMS[0], visible=True),
            place: gr.update(visible=False),
        }

    def look(files, level: int, x: float, y: float):
        if files is None:
            return gr.update(), gr.update(visible=False)
        try:
            pictures = views(files, level, x / 100, y / 100)
        except UnreadablePhotoError:
            raise gr.Error("the photo is no longer here: restore it again", print_exception=False) from None
        width = CROP[0] if level else None  # a pixel of the part is one of the page, where the page is as wide
        return gr.update(value=tuple(map(str, pictures)), width=width), gr.update(visible=level > 0)

    outputs = [pair, slider, report, result, zoom, place]
    asked = {"inputs": [file, *options], "outputs": outputs, "show_progress_on": slider, "concurrency_id": "restore"}
    start.click(restore, **asked, api_name="restore")
    picked = shown.click(lambda index: examples[index], shown, file, show_progress="hidden", api_visibility="private")
    picked.then(restore, **asked, api_visibility="private")
    gr.on(
        [zoom.input, across.release, down.release],
        look,
        [pair, zoom, across, down],
        [slider, place],
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )


# --- many photos ---


def batch_tab(work: Work, options: list[Any]) -> None:
    """Many photos: a table of what became of them, and a zip."""
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            files = gr.File(label="Photos", file_count="multiple", height=220)
            start = gr.Button("Restore all", variant="primary", elem_id="restore-all")
            stop = gr.Button("Cancel")
        with gr.Column(scale=2, min_width=320):
            report = gr.Textbox(label="Report", lines=1, max_lines=4, interactive=False, elem_classes="report")
            table = gr.Dataframe(
                headers=["Photo", "Result", "Report"],
                datatype="str",
                interactive=False,
                wrap=True,
                max_height=360,
                column_widths=["26%", "18%", "56%"],
            )
            archive = gr.File(label="All restored photos", interactive=False, visible=False)

    def restore_all(paths: list[str] | None, name: str, *asked: Any):
        rows: list[list[str]] = []
        hidden = gr.update(value=None, visible=False)
        try:
            total = len(paths or [])
            yield f"0 of {total}", rows, hidden
            for record, zipped in work.restore_many(paths or [], name, _options(*asked)):
                rows.append([os.path.basename(record["input"]), record["status"], describe(record).partition(": ")[2]])
                failed = sum(row[1] == FAILED for row in rows)
                text = f"{len(rows)} of {total}" + (f", {failed} failed" if failed else "")
                yield text, rows, gr.update(value=str(zipped), visible=True) if zipped else hidden
        except Exception as error:
            yield _said(error), rows, hidden

    running = start.click(
        restore_all,
        [files, *options],
        [report, table, archive],
        show_progress="minimal",
        concurrency_id="restore",
        api_name="restore_all",
    )
    stop.click(lambda: "cancelled", None, report, cancels=[running], api_visibility="private")


# --- adapting ---


def adapt_tab(work: Work, adaptation: Adaptation, page: gradio.Blocks, checkpoint: gradio.Dropdown) -> None:
    """Adapting: start, follow, cancel, go on; also after the page was loaded anew."""
    import gradio as gr
    import pandas

    limits = work.limits
    gr.Markdown(
        "Trains a checkpoint further on photos like those that you want to restore: a dozen noisy ones of one camera, "
        "without clean counterparts. Nothing leaves this machine."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            photos = gr.File(label="Noisy photos", file_count="multiple", height=150)
            clean = gr.File(label="Good photos, if you have some", file_count="multiple", height=150)
            start_from = gr.Dropdown(
                work.checkpoints(),
                value="daa-denoise-plain",
                label="Checkpoint to start from",
                allow_custom_value=True,
            )
            minutes = gr.Slider(
                min(1, limits.max_minutes), limits.max_minutes, min(10, limits.max_minutes), step=1, label="Minutes"
            )
            with gr.Row():
                start = gr.Button("Adapt", variant="primary", min_width=80, elem_id="adapt")
                cancel = gr.Button("Cancel", min_width=80, interactive=False, elem_id="cancel")
                resume = gr.Button("Continue", min_width=80, interactive=False)
        with gr.Column(scale=2, min_width=320):
            report = gr.Textbox(label="Progress", lines=2, interactive=False, elem_classes="report", elem_id="progress")
            with gr.Row():
                plots = [
                    gr.LinePlot(
                        x="step", y="loss", color="name", color_title=" ", title=title, height=280, y_lim=[0, None],
                        visible=False, buttons=[], min_width=260,
                    )
                    for title in PLOTS
                ]  # fmt: skip
    timer = gr.Timer(1.0, active=False)
    outputs = [report, *plots, start, cancel, resume, timer, checkpoint, start_from]

    def shown(progress: Progress, said: str = "") -> list[Any]:
        frame = pandas.DataFrame(list(progress.losses), columns=["step", "name", "loss"])
        running = progress.running

        def plot(names: tuple[str, ...]) -> Any:
            part = frame[frame["name"].isin(names)]
            return gr.update(
                value=part, visible=not part.empty, y_lim=[0, None if part.empty else 1.1 * part["loss"].max()]
            )

        choices: Any = gr.update()
        if not running:  # there may be a new one
            choices = gr.update(choices=work.checkpoints())
        return [
            said or progress_text(progress),
            *map(plot, PLOTS.values()),
            gr.update(interactive=not running),
            gr.update(interactive=running and progress.state != "stopping"),
            gr.update(interactive=progress.state == "stopped"),
            gr.Timer(active=running),
            choices,
            choices,
        ]

    def attempt(action: Callable[[], None]) -> list[Any]:
        try:
            action()
        except Exception as error:
            return shown(adaptation.progress(), _said(error))
        return shown(adaptation.progress())

    def begin(files: list[str] | None, good: list[str] | None, name: str, time: float) -> list[Any]:
        def action() -> None:
            limits.check(files or [])
            limits.check([*(files or []), *(good or [])])
            if not 0 < time <= limits.max_minutes:
                raise ConfigurationError(f"the minutes must be up to {limits.max_minutes:g}, got {time!r}")
            work.load(name)  # a wrong name is told at once
            adaptation.start(files or [], good or [], checkpoint=name, minutes=time)

        return attempt(action)

    start.click(begin, [photos, clean, start_from, minutes], outputs, show_progress_on=report, api_name="adapt")
    cancel.click(lambda: attempt(adaptation.cancel), None, outputs, show_progress="hidden", api_name="cancel_adapting")
    resume.click(lambda: attempt(adaptation.resume), None, outputs, show_progress="hidden", api_visibility="private")
    timer.tick(
        lambda: shown(adaptation.progress()), None, outputs, show_progress="hidden", api_name="adapting_progress"
    )
    page.load(lambda: shown(adaptation.progress()), None, outputs, show_progress="hidden", api_visibility="private")


def progress_text(progress: Progress) -> str:
    """Two lines: what is going on, and how far it is."""
    if not progress.steps:
        return progress.message
    share = progress.step / progress.steps
    bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
    left = f", {progress.left} left" if progress.left and progress.running else ""
    return f"{progress.message}\n{bar} step {progress.step} of {progress.steps}{left}"
