"""The page of `daa demo`: what is on it, and how it is served; the work is in `jobs` and `adapting`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from .adapt_job import Adaptation
from .restore_job import Limits, Work
from .tabs import adapt_tab, batch_tab, photo_tab

if TYPE_CHECKING:
    import gradio

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CSS = """
footer { display: none !important; }
.report textarea { font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Settings:
    """How the page is served.

    Args:
        host, port: to listen on; None: the first free port from 7860.
        share: also through a public address of gradio's servers.
        limits: of a visitor.
        checkpoints: offered beside the bundled ones; the first one is chosen at first.
        runs: folder that adapted checkpoints are kept in.
        device: as for `daa restore`.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    limits: Limits = field(default_factory=Limits)
    checkpoints: tuple[str, ...] = ()
    runs: Path = Path("adapted")
    device: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the page."""
        return self.host in LOOPBACK and not self.share


@contextlib.contextmanager
def served(settings: Settings, *, browser: bool = False) -> Iterator[str]:
    """Serves the page while entered, from a thread; gives its address.

    Uploads and results lie in a temporary folder, which is removed at the end, after an adaptation that runs has
    been asked to save. No other file of this machine can be reached, and nothing is fetched from or told to the
    network, unless a checkpoint is a Hub id or `share` is asked for.

    Raises:
        ConfigurationError: without gradio.
        OSError: where the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="daa-demo-") as folder, _environment(folder):
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise ConfigurationError("the page needs gradio: pip install 'daa-diffusers[demo]'") from error
        work = Work(
            Path(folder),
            settings.limits,
            checkpoints=settings.checkpoints,
            runs=settings.runs,
            only_offered=not settings.local,
            device=settings.device,
        )
        adaptation = Adaptation(settings.runs, Path(folder))
        page = build(work, adaptation)
        page.queue(max_size=32, api_open=False, default_concurrency_limit=1)  # no call overtakes the queue
        try:
            yield _launch(page, settings, browser)
        finally:
            page.close(verbose=False)
            adaptation.close()


def _launch(page: gradio.Blocks, settings: Settings, browser: bool) -> str:
    import gradio

    plain = ["system-ui", "sans-serif"]  # fonts of the browser's own: none is fetched
    try:
        _, local, public = page.launch(
            server_name=settings.host,
            server_port=settings.port,
            share=settings.share,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            max_file_size=f"{settings.limits.max_file_mb * 1e6:.0f}b",
            allowed_paths=[],
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            run_history=False,
            theme=gradio.themes.Soft(font=plain, font_mono=["ui-monospace", "monospace"]),
            css=CSS,
        )
    except OSError as error:
        port = settings.port or "7860 to 7959"
        raise OSError(f"cannot listen on {settings.host}, port {port}: taken, or not of this machine") from error
    return public or local


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    """What gradio reads from the environment, when it is imported and later."""
    values = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": os.path.join(folder, "uploads")}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def build(work: Work, adaptation: Adaptation) -> gradio.Blocks:
    """The page; `served` launches it."""
    import gradio as gr

    with gr.Blocks(title="daa demo", analytics_enabled=False, delete_cache=(3600, 4 * 3600)) as page:
        gr.Markdown(
            "# Restore photos\n"
            "Noise goes; format, bit depth, colours, EXIF and transparency stay. Photos do not leave the machine that "
            "runs this page."
        )
        with gr.Row():
            checkpoint = gr.Dropdown(
                work.checkpoints(),
                value=work.checkpoints()[0][1],
                label="Checkpoint",
                info="One of these" + ("" if work.only_offered else ", a folder, or a Hub id"),
                allow_custom_value=True,
                min_width=260,
            )
            strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0 changes nothing", min_width=260)
        with gr.Accordion("More options", open=False):
            guard = gr.Checkbox(True, label="Leave photos that are clean already as they are")
            ensemble = gr.Checkbox(False, label="Mean over 8 flips and turns (8 times the time)")
            location = gr.Checkbox(False, label="Leave out GPS and place names")
        options = [checkpoint, strength, guard, ensemble, location]
        with gr.Tab("Photo"):
            photo_tab(work, options)
        with gr.Tab("Batch"):
            batch_tab(work, options)
        with gr.Tab("Adapt to my photos"):
            adapt_tab(work, adaptation, page, checkpoint)
    return page
