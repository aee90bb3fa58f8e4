"""Tab of one photo: restoring, comparison, magnified parts, download."""

from __future__ import annotations

from typing import Any

from ..errors import UnreadablePhotoError
from .asked import in_words, options_from
from .restore_job import Work, describe
from .views import CROP, Pair, thumbnails, views

ZOOMS = ("Whole photo", "100 %", "200 %")
SIDES = '<div class="sides"><span>before</span><span>after</span></div>'


def photo_tab(work: Work, options: list[Any]) -> None:
    """Tab of one photo: restoring, comparison, magnified parts, download."""
    import gradio as gr

    from ..sources.demo_photos import noisy_photos

    examples = [str(path) for path in noisy_photos(work.folder / "examples")]
    small = [str(path) for path in thumbnails(examples, work.folder / "thumbnails")]
    pair = gr.State()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            file = gr.File(label="Photo", height=170, elem_id="photo", elem_classes="upload")
            start = gr.Button("Restore", variant="primary", elem_id="restore")
            shown = gr.Dataset(
                label="Examples: free photos with simulated camera noise",
                components=[gr.Image(visible=False)],  # gradio removes the files of components that are not rendered
                samples=[[path] for path in small],
                type="index",
            )
            report = gr.Textbox(label="Report", lines=1, max_lines=8, interactive=False, elem_classes="report")
            result = gr.File(label="Restored photo", interactive=False, visible=False, elem_id="result")
        with gr.Column(scale=2, min_width=320):
            sides = gr.HTML(SIDES, visible=False, padding=False)
            slider = gr.ImageSlider(
                show_label=False,
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
            sides: gr.update(visible=False),
            slider: None,
            result: gr.update(value=None, visible=False),
            zoom: gr.update(visible=False),
        }
        nothing[place] = gr.update(visible=False)
        try:
            record, files = work.restore(path or "", name, options_from(*asked))
            if files is None:
                return nothing | {report: describe(record)}
            pictures = views(files, 0)
        except Exception as error:  # an error must not stop the page
            return nothing | {report: in_words(error)}
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
    asked = {"inputs": [file, *options], "outputs": outputs, "show_progress_on": slider, "concurrency_id": "restore"}
    start.click(restore, **asked, api_name="restore")
    picked = shown.click(lambda index: examples[index], shown, file, show_progress="hidden", api_visibility="private")
    picked.then(restore, **asked, api_visibility="private")
    gr.on(
        [zoom.input, across.release, down.release],
        _part,
        [pair, zoom, across, down],
        [slider, place],
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )


def _part(files: Pair | None, level: int, across: float, down: float) -> tuple[Any, Any]:
    """Values of the comparison and of the row of its position: a part of the photo, at a place in percent."""
    import gradio as gr

    if files is None:
        return gr.update(), gr.update(visible=False)
    try:
        pictures = views(files, level, across / 100, down / 100)
    except UnreadablePhotoError:
        raise gr.Error("the photo is no longer here: restore it again", print_exception=False) from None
    width = CROP[0] if level else None  # a pixel of the part is one of the page, where the page is as wide
    return gr.update(value=tuple(map(str, pictures)), width=width), gr.update(visible=level > 0)
