"""Layout of the page: checkpoint and restoration options at the top, and tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .adapt_job import Adaptation
from .adapt_tab import adapt_tab
from .batch_tab import batch_tab
from .photo_tab import photo_tab
from .restore_job import KEPT_SECONDS, Work
from .shared import follow

if TYPE_CHECKING:
    import gradio

CSS = """
footer { display: none !important; }
.report textarea { font-variant-numeric: tabular-nums; }
.sides { display: flex; justify-content: space-between; font-weight: 600; max-width: 600px; margin: 0 auto; }
.purpose { padding: 0 2px; }
.upload .wrap { padding-top: 1.6em; }  /* space at the top: the label would cover the icon */
"""


def build(work: Work, adaptation: Adaptation) -> gradio.Blocks:
    """Builds the page, to be launched by `serving.served`."""
    import gradio as gr

    offered = work.offered  # checkpoints
    # uploads are removed after 4 hours; gradio looks for them every hour
    with gr.Blocks(title="daa demo", analytics_enabled=False, delete_cache=(3600, KEPT_SECONDS)) as page:
        gr.Markdown(
            "# Restore photos\n"
            "Format, bit depth, colors, EXIF and transparency are kept. Photos do not leave the machine that runs "
            "this page."
        )
        with gr.Row():
            with gr.Column(min_width=260):
                checkpoint = gr.Dropdown(
                    offered.choices(),
                    value=offered.default,
                    label="Checkpoint",
                    info="One of these" + ("" if work.only_offered else ", a folder, or a Hub id"),
                    allow_custom_value=True,  # the adaptation adds checkpoints; with `only_offered`, `Work.load` checks
                    elem_id="checkpoint",
                )
                purpose = gr.Markdown(offered.purpose(offered.default), elem_id="purpose", elem_classes="purpose")
            with gr.Column(min_width=260):
                strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0 changes nothing")
        with gr.Accordion("More options", open=False):
            guard = gr.Checkbox(True, label="Undo changes that do not resemble noise (derainers: rain)")
            ensemble = gr.Checkbox(False, label="Mean over 8 flips and rotations (8 times the time)")
            location = gr.Checkbox(False, label="Remove GPS and place names")
        options = [checkpoint, strength, guard, ensemble, location]
        with gr.Tab("Photo"):
            photo_tab(work, options)
        with gr.Tab("Batch"):
            batch_tab(work, options)
        with gr.Tab("Adapt to my photos"):
            adapt_tab(work, adaptation, page, checkpoint)
        follow(checkpoint, purpose, offered.purpose)
    return page
