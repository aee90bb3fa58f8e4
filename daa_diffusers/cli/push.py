"""`daa push`: upload of a pipeline folder and its model card to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def push(
    folder: Annotated[
        str, typer.Argument(help="Folder of a pipeline or a training run, or the name of a bundled checkpoint.")
    ],
    repo_id: Annotated[str, typer.Argument(help="owner/name; created if it does not exist.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository. Default: your account's setting."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, created if it does not exist. Default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    license: Annotated[
        str | None, typer.Option(help="License of the weights, as a Hub identifier such as apache-2.0.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Markdown file to use as README.md. Default: a rendered card.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and print the card without uploading.")
    ] = False,
) -> None:
    """Upload a pipeline to the Hugging Face Hub, with its model card, in one commit.

    Needs a token with write access: `hf auth login`, or HF_TOKEN in the environment.
    """
    from ..hub.publish import check_revision, prepare, send

    check_revision(revision)
    upload = prepare(folder, repo_id, license=license, card=card)
    if dry_run:
        for name in sorted(upload.files):
            typer.echo(f"{upload.size(name):>12,} {name}")
        for name in upload.skipped:
            typer.echo(f"{'not sent':>12} {name}")
        typer.echo(f"\n{upload.card}")
        return
    typer.echo(f"pushed: {send(upload, private=private, revision=revision, commit_message=message)}")
