"""Tab for one photo: restoration, comparison, zoom, download."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ..checkpoints.tasks import Task
from ..errors import UnreadablePhotoError
from .restore_job import Work, describe
from .shared import error_text, follow, options_from
from .views import CROP, Pair, thumbnails, views

ZOOMS = ("Whole photo", "100 %", "200 %")  # the index is the argument `zoom` of `views`
SIDES = '<div class="sides"><span>before</span><span>after</span></div>'


class Examples:
    """Example photos for each task, created when they are first shown.

    Args:
        folder: output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def title(self, task: Task) -> str:
        """Returns the title of the row of examples."""
        return f"Examples: free photos with simulated {task.example_words or 'degradation'}"

    def files(self, task: Task) -> list[str]:
        """Returns the files of the degraded photos."""
        from ..sources.demo_photos import example_photos

        with self._lock:
            if task.name not in self._made:
                paths = example_photos(self.folder / "examples" / task.name, task)
                self._made[task.name] = [str(path) for path in paths]
            return self._made[task.name]

    def samples(self, task: Task) -> list[list[str]]:
        """Returns the thumbnails of the degraded photos, one per row."""
        return [[str(path)] for path in thumbnails(self.files(task), self.folder / "thumbnails" / task.name)]


def photo_tab(work: Work, options: list[Any]) -> None:
    """Builds the tab for one photo; `options` are the controls for checkpoint and restoration options."""
    import gradio as gr

    examples = Examples(work.folder)
    checkpoint = options[0]
    first = work.offered.task(work.offered.default)
    pair = gr.State()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            file = gr.File(label="Photo", height=170, elem_id="photo", elem_classes="upload")
            start = gr.Button("Restore", variant="primary", elem_id="restore")
            example_row = gr.Dataset(
                label=examples.title(first),
                components=[gr.Image(visible=False)],  # gradio removes the files of components that are not rendered
                samples=examples.samples(first),
                type="index",
            )
            report = gr.Textbox(label="Report", lines=1, max_lines=8, interactive=False, elem_classes="report")
            result = gr.File(label="Restored photo", interactive=False, visible=False, elem_id="result")
        with gr.Column(scale=2, min_width=320):
            sides = gr.HTML(SIDES, visible=False, padding=False)
            size = {"width": CROP[0], "max_height": 560}
            slider = gr.ImageSlider(
                show_label=False, type="filepath", interactive=False, buttons=["fullscreen"], **size
            )
            zoom = gr.Radio(ZOOMS, value=ZOOMS[0], type="index", show_label=False, visible=False, elem_id="zoom")
            with gr.Row(visible=False) as place:
                across = gr.Slider(0, 100, 50, step=1, label="Across (%)", min_width=140)
                down = gr.Slider(0, 100, 50, step=1, label="Down (%)", min_width=140)

    def restore(path: str | None, name: str, *option_values: Any):
        nothing = {
            pair: None,
            sides: gr.update(visible=False),
            slider: None,
            result: gr.update(value=None, visible=False),
            zoom: gr.update(visible=False),
            place: gr.update(visible=False),
        }
        try:
            record, files = work.restore(path or "", name, options_from(*option_values))
            if files is None:
                return nothing | {report: describe(record)}
            pictures = views(files, 0)
        except Exception as error:  # an error must not stop the server
            return nothing | {report: error_text(error)}
        return {
            pair: files,
            sides: gr.update(visible=True),
            slider: gr.update(value=tuple(map(str, pictures)), width=None),
            report: describe(record),
            result: gr.update(value=files.after, visible=True),
            zoom: gr.update(value=ZOOMS[0], visible=True),
            place: gr.update(visible=False),
        }

    outputs = [pair, sides, slider, report, result, zoom, place]
    call = {"inputs": [file, *options], "outputs": outputs, "show_progress_on": slider, "concurrency_id": "restore"}
    start.click(restore, **call, api_name="restore")

    def pick(index: int, name: str) -> str:
        return examples.files(work.offered.task(name))[index]

    def examples_of(name: str) -> Any:
        task = work.offered.task(name)
        return gr.Dataset(label=examples.title(task), samples=examples.samples(task))

    private = {"show_progress": "hidden", "api_visibility": "private"}
    follow(checkpoint, example_row, examples_of)
    picked = example_row.click(pick, [example_row, checkpoint], file, **private)
    picked.then(restore, **call, api_visibility="private")
    gr.on(
        [zoom.input, across.release, down.release],
        _part,
        [pair, zoom, across, down],
        [slider, place],
        trigger_mode="always_last",
        **private,
    )


def _part(files: Pair | None, level: int, across: float, down: float) -> tuple[Any, Any]:
    """Returns updates of the comparison, which then shows a part at a position in percent, and of the position row."""
    import gradio as gr

    if files is None:
        return gr.update(), gr.update(visible=False)
    try:
        pictures = views(files, level, across / 100, down / 100)
    except UnreadablePhotoError:
        raise gr.Error("the photo was removed: restore it again", print_exception=False) from None
    width = CROP[0] if level else None  # one image pixel per page pixel, if the page is wide enough
    return gr.update(value=tuple(map(str, pictures)), width=width), gr.update(visible=level > 0)
