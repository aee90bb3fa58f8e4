"""Tab for many photos: table of results, and zip archive."""

from __future__ import annotations

import os
from typing import Any

from ..restoring.work import FAILED
from .restore_job import Work, describe
from .shared import error_text, options_from


def batch_tab(work: Work, options: list[Any]) -> None:
    """Builds the tab for many photos; `options` are the controls for checkpoint and restoration options."""
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            files = gr.File(label="Photos", file_count="multiple", height=220, elem_classes="upload")
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

    def restore_all(paths: list[str] | None, name: str, *option_values: Any):
        rows: list[list[str]] = []
        hidden = gr.update(value=None, visible=False)
        try:
            total = len(paths or [])
            yield f"0 of {total}", rows, hidden
            for record, zipped in work.restore_many(paths or [], name, options_from(*option_values)):
                # the report without the name of the photo, which has a column of its own
                rows.append([os.path.basename(record["input"]), record["status"], describe(record).partition(": ")[2]])
                failed = sum(row[1] == FAILED for row in rows)
                text = f"{len(rows)} of {total}" + (f", {failed} failed" if failed else "")
                yield text, rows, gr.update(value=str(zipped), visible=True) if zipped else hidden
        except Exception as error:
            yield error_text(error), rows, hidden

    running = start.click(
        restore_all,
        [files, *options],
        [report, table, archive],
        show_progress="minimal",
        concurrency_id="restore",
        api_name="restore_all",
    )
    stop.click(lambda: "canceled", None, report, cancels=[running], api_visibility="private")
