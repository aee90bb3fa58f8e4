"""Server of the demo: address, host names, and temporary files, which are removed at the end."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from .adapt_job import Adaptation
from .page import CSS, build
from .restore_job import Limits, Work
from .served_names import RefuseOthers, ServedNames

if TYPE_CHECKING:
    import gradio

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Args:
        host, port: address and port to listen on; port None: the first free one from 7860.
        allow_hosts: additional accepted host names, such as those of a reverse proxy or a tunnel.
        share: also serve at a public address through gradio's servers.
        limits: limits on requests.
        checkpoints: checkpoints to offer in addition to the bundled ones; the first one is preselected.
        runs: folder for adapted checkpoints.
        device: device of the pipeline, as in `daa restore`.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    allow_hosts: tuple[str, ...] = ()
    share: bool = False
    limits: Limits = field(default_factory=Limits)
    checkpoints: tuple[str, ...] = ()
    runs: Path = Path("adapted")
    device: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host.strip("[]") in LOOPBACK and not self.share and not self.allow_hosts


@contextlib.contextmanager
def served(settings: Settings, *, browser: bool = False) -> Iterator[str]:
    """Context in which the page is served by a thread; yields its address.

    Uploads and results are in a temporary folder, which is removed at the end, after a running adaptation has saved its
    state. No other file of this machine is accessible. Nothing is downloaded or sent over the network, unless a
    checkpoint is a Hub id or `share` is set. Requests under other host names, and those of other web pages, are
    rejected (`served_names`).

    Raises:
        ConfigurationError: gradio is not installed, or an entry of `allow_hosts` is not a host name.
        OSError: the port is in use, or the host is not an address of this machine.
    """
    names = ServedNames(settings.host, settings.allow_hosts)
    _check_listening(settings.host.strip("[]"), settings.port)
    with tempfile.TemporaryDirectory(prefix="daa-demo-") as folder, _temporary_files(folder):
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
        # one call at a time; others wait in the queue, at most 32
        page.queue(max_size=32, api_open=False, default_concurrency_limit=1)
        try:
            yield _launch(page, settings, names, browser)
        finally:
            page.close(verbose=False)
            adaptation.close()


def _check_listening(host: str, port: int | None) -> None:
    """Raises OSError if the port cannot be used; gradio would try a hundred ports for five seconds each."""
    try:
        addresses = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise OSError(f"cannot listen on {where}: {error.strerror or error}") from error


def _launch(page: gradio.Blocks, settings: Settings, names: ServedNames, browser: bool) -> str:
    """Starts the thread that serves the page; returns its address."""
    import gradio

    @contextlib.asynccontextmanager
    async def refuse_others(app: Any) -> AsyncIterator[None]:
        """Adds the middleware as the outermost one before the first request, since gradio's answers some requests."""
        app.middleware_stack = RefuseOthers(app.middleware_stack, names)
        yield

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # without downloads
    host = settings.host
    try:
        _, local, public = page.launch(
            server_name=f"[{host}]" if ":" in host and not host.startswith("[") else host,
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
            theme=gradio.themes.Soft(**fonts),
            css=CSS,
            app_kwargs={"lifespan": refuse_others},
        )
    except OSError as error:  # port taken since the check, or no free port left
        raise OSError(f"cannot listen on {settings.host}, port {settings.port or '7860 to 7959'}: in use") from error
    if public:
        names.allow(urlsplit(public).hostname or "")
    return public or local


@contextlib.contextmanager
def _temporary_files(folder: str) -> Iterator[None]:
    """Sets temporary folders for gradio's uploads, and for the font cache of matplotlib, which gradio imports.

    Both libraries read these environment variables when they are imported, and again later.
    """
    subfolders = {"GRADIO_TEMP_DIR": "uploads", "MPLCONFIGDIR": "matplotlib"}
    before = {name: os.environ.get(name) for name in subfolders}
    os.environ.update({name: os.path.join(folder, subfolder) for name, subfolder in subfolders.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
