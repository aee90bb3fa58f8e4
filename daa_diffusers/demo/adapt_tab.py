"""Adaptation tab: start, progress, cancellation and resumption of a run, also after the page is reloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .adapt_job import Adaptation, Progress
from .offered import Offered
from .restore_job import Work
from .shared import error_text, follow

if TYPE_CHECKING:
    import gradio

PLOTS = {  # title -> names of losses; "untouched" is the loss "pair" of the unrestored photos
    "Synthetic photos": ("pair", "untouched"),
    "Noise prediction": ("noise", "adaptation"),
}


def adapt_tab(work: Work, adaptation: Adaptation, page: gradio.Blocks, checkpoint: gradio.Dropdown) -> None:
    """Builds the adaptation tab.

    Args:
        work: limits and checkpoints of the demo.
        adaptation: the only adaptation, shared by all visitors.
        page: page that holds the tab.
        checkpoint: list of checkpoints on the restoration tab; a new checkpoint is added to it.
    """
    import gradio as gr

    limits, offered = work.limits, work.offered
    gr.Markdown(
        "Adapts a checkpoint to photos like those that you want to restore: a dozen or more of one kind (for a "
        "denoiser, noisy photos from one camera), without clean counterparts. Nothing leaves this machine."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            photos = gr.File(label="Photos to adapt to", file_count="multiple", height=170, elem_classes="upload")
            clean = gr.File(label="Clean photos (optional)", file_count="multiple", height=170, elem_classes="upload")
            start_from = gr.Dropdown(
                offered.choices(),
                value=offered.start,
                label="Initial checkpoint",
                allow_custom_value=True,
                elem_id="start-from",
            )
            purpose = gr.Markdown(offered.purpose(offered.start), elem_id="start-purpose", elem_classes="purpose")
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

    def updates(message: str = "") -> list[Any]:  # of `outputs`
        progress = adaptation.progress()
        return [message or progress_text(progress), *updates_of(progress, offered)]

    def attempt(action: Callable[[], None]) -> list[Any]:
        try:
            action()
        except Exception as error:
            return updates(error_text(error))
        return updates()

    def begin(files: list[str] | None, clean_files: list[str] | None, name: str, time: float) -> list[Any]:
        def action() -> None:
            limits.check(files or [])
            limits.check([*(files or []), *(clean_files or [])])
            if not isinstance(time, int | float) or not 0 < time <= limits.max_minutes:
                raise ConfigurationError(f"the minutes must be in (0, {limits.max_minutes:g}], got {time!r}")
            work.load(name)  # reports an invalid name immediately
            adaptation.start(files or [], clean_files or [], checkpoint=name.strip(), minutes=time)

        return attempt(action)

    follow(start_from, purpose, offered.purpose)
    start.click(begin, [photos, clean, start_from, minutes], outputs, show_progress_on=report, api_name="adapt")
    cancel.click(lambda: attempt(adaptation.cancel), None, outputs, show_progress="hidden", api_name="cancel_adapting")
    resume.click(lambda: attempt(adaptation.resume), None, outputs, show_progress="hidden", api_visibility="private")
    timer.tick(lambda: updates(), None, outputs, show_progress="hidden", api_name="adapting_progress")
    page.load(lambda: updates(), None, outputs, show_progress="hidden", api_visibility="private")


def updates_of(progress: Progress, offered: Offered) -> list[Any]:
    """Returns updates of the plots, the buttons (adapt, cancel, continue), the timer, and both lists of checkpoints."""
    import gradio as gr
    import pandas

    frame = pandas.DataFrame(list(progress.losses), columns=["step", "name", "loss"])
    running = progress.running

    def plot(names: tuple[str, ...]) -> Any:
        rows = frame[frame["name"].isin(names)]
        top = None if rows.empty else 1.1 * rows["loss"].max()
        return gr.update(value=rows, visible=not rows.empty, y_lim=[0, top])

    choices: Any = gr.update() if running else gr.update(choices=offered.choices())  # may include a new one
    return [
        *map(plot, PLOTS.values()),
        gr.update(interactive=not running),
        gr.update(interactive=running and progress.state != "stopping"),
        gr.update(interactive=progress.state == "stopped"),
        gr.Timer(active=running),
        choices,
        choices,
    ]


def progress_text(progress: Progress) -> str:
    """Returns the text of the box "Progress": the message and, if the number of steps is known, a progress bar."""
    if not progress.steps:
        return progress.message
    filled = round(20 * progress.step / progress.steps)
    bar = "█" * filled + "░" * (20 - filled)
    left = f", {progress.left} left" if progress.left and progress.running else ""
    return f"{progress.message}\n{bar} step {progress.step} of {progress.steps}{left}"
