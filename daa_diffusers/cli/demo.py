"""`daa demo`: a web page to restore photos and to adapt a restorer to them."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError

SERVED, LIMITS = "Serving", "Limits"

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional checkpoint to offer (folder, file or Hub id); may be repeated. The first is preselected.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder for adapted checkpoints.")] = Path("adapted"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all networks.", rich_help_panel=SERVED)
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional host name of the page, such as that of a reverse proxy or a tunnel; may be repeated.",
            show_default=False,
            rich_help_panel=SERVED,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on. Default: the first free one from 7860.", rich_help_panel=SERVED),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share", help="Also serve at a public address, through gradio's servers.", rich_help_panel=SERVED
        ),
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.", rich_help_panel=SERVED)] = True,
    max_megapixels: Annotated[float, typer.Option(help="Limit on the size of a photo.", rich_help_panel=LIMITS)] = 50.0,
    max_file_mb: Annotated[
        float, typer.Option(help="Limit on the size of a file, in MB.", rich_help_panel=LIMITS)
    ] = 200.0,
    max_files: Annotated[
        int, typer.Option(help="Limit on the number of photos at once.", rich_help_panel=LIMITS)
    ] = 200,
    max_minutes: Annotated[
        float, typer.Option(help="Limit on the duration of an adaptation.", rich_help_panel=LIMITS)
    ] = 60.0,
) -> None:
    """Open a page to restore photos, compare before and after, and adapt a restorer.

    Photos are processed on this machine; with --share, the page is transmitted through gradio's servers. Ctrl-C stops
    the server; the state of a running adaptation is saved.
    """
    from ..demo.restore_job import Limits
    from ..demo.serving import Settings, served
    from ..restoring.loading import check_model, usable_device

    if port is not None and not 0 < port < 65536:
        raise ConfigurationError(f"`--port` must be from 1 to 65535, got {port}")
    if runs.exists() and not runs.is_dir():
        raise ConfigurationError(f"`--runs` must be a folder, got the file {str(runs)!r}")
    for name in checkpoint or ():
        check_model(name)
    if device is not None:
        usable_device(device)
    settings = Settings(
        host=host,
        port=port,
        allow_hosts=tuple(allow_host or ()),
        share=share,
        limits=Limits(max_megapixels, max_file_mb, max_files, max_minutes),
        checkpoints=tuple(checkpoint or ()),
        runs=runs,
        device=device,
    )
    if not settings.local:
        typer.echo("anyone who can reach this page can use it: it has no password", err=True)
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers in the main thread only
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    with served(settings, browser=browser) as address:
        typer.echo(f"{address} (Ctrl-C to stop)")
        while True:  # signals are handled when this thread wakes up
            time.sleep(0.5)
