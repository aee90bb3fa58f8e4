"""Uploads of pipelines and restorers to the Hub, with model card and code, in one commit."""

import inspect
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..errors import CheckpointError, ConfigurationError
from ..files import text_of
from .card import given_card, render_card
from .description import Description, describe
from .licenses import License, check_license, license_named
from .record_files import RENDERED, training_record
from .repository import LOADER_FILE, PIPELINE_CLASS, check_traces, json_bytes, with_code, without_machine
from .resolving import (
    CARD,
    CONFIG_NAMES,
    EVALUATION,
    LICENSE_FILES,
    MODEL_INDEX,
    SAFETENSORS,
    TRAINING,
    check_folder,
    check_network_folder,
    read_index,
    resolve,
)
from .untrusted import check_inside, read_json
from .weight_files import WEIGHTS, stored_variant

COMPONENTS = ("restorer", "unet", "scheduler")
PULL_REQUESTS = "refs/pr/"  # the Hub creates these branches itself
# No part between slashes starts with "." or ends in ".lock"; the name contains no ".." or "@{" and no "." at its end.
_BRANCH = re.compile(r"(?!-)(?!@$)(?!.*(\.\.|@\{|\.$))(?:(?!\.)[^\s\x00-\x20~^:?*\[\\/\x7f]+(?<!\.lock)(/(?!$)|$))+")
_COMMIT = re.compile(r"[0-9a-f]{40}$")


@dataclass(frozen=True)
class Upload:
    """Content of a push, for inspection before it is sent.

    Args:
        repo_id: "owner/name".
        files: path in the repository -> content, or local file with the content.
        skipped: files of the folder that are not sent, because they do not belong to a pipeline.
    """

    repo_id: str
    files: dict[str, bytes | Path]
    skipped: tuple[str, ...] = ()

    @property
    def card(self) -> str:
        """Text of README.md."""
        content = self.files[CARD]
        assert isinstance(content, bytes)
        return content.decode()

    def size(self, name: str) -> int:
        """Returns the size of a file in bytes."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def prepare(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    license: str | None = None,
    card: str | os.PathLike[str] | None = None,
) -> Upload:
    """Collects the files of a push; nothing is changed or sent.

    Args:
        folder: folder of a pipeline or a restorer, output folder of a training run, or bundled name.
        repo_id: "owner/name".
        license: license of the weights, as an identifier of the Hub ("apache-2.0"). None: as recorded in the folder.
        card: Markdown file to use as README.md. None: the one in the folder if a user wrote it, else a rendered one.

    Raises:
        CheckpointError: the folder is not a complete checkpoint, or a file is a link to a place outside it.
        ConfigurationError: another invalid argument, a license that the weights do not have, or a file that contains
            an access token, a password or a path of this machine.
    """
    check_license(license)
    check_repo_id(repo_id)
    source = resolve(folder, "folder")
    is_network = source.kind == "file" and Path(folder).is_dir()
    if source.kind != "folder" and not is_network:
        raise CheckpointError(
            f"`folder` must be the folder of a pipeline or restorer, or a bundled name, got {os.fspath(folder)!r}"
        )
    folder = Path(folder) if is_network else Path(source.location)
    if is_network:
        check_network_folder(folder, stored_variant(folder))
    components = [""] if is_network else _checked_components(folder)
    training = without_machine(training_record(folder))
    description = describe(folder, training)
    weights_license = _license_of_upload(description, license)

    files: dict[str, bytes | Path] = {}
    for component in components:
        files |= _network_files(folder, component, repo_id, weights_license)
    code: dict[str, bytes] = {}
    if not is_network:
        code, index = with_code(read_index(folder), components)
        files |= {MODEL_INDEX: json_bytes({**index, "_name_or_path": repo_id}), **code}
    if training:
        files[TRAINING] = json_bytes(training)
    if description.evaluation:
        files[EVALUATION] = json_bytes(description.evaluation)
    for name in LICENSE_FILES:
        if (folder / name).is_file():
            files[name] = (folder / name).read_bytes()
    written = _written_card(folder, card)
    if written is None:
        text = render_card(description, repo_id, weights_license, with_code=bool(code))
    else:
        text = given_card(written, description, repo_id, weights_license)
    files[CARD] = text.encode()
    check_inside(folder, [folder / name for name in files])
    for name, content in files.items():
        check_traces(name, content, folder)
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return Upload(repo_id, files, tuple(name for name in found if name not in (*files, LOADER_FILE)))


def send(
    upload: Upload,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
) -> str:
    """Creates the repository if it does not exist, and sends all files in one commit.

    Args:
        upload: result of `prepare`.
        private: visibility of a new repository. None: default of the owner's account.
        token: access token. None: that of `hf auth login` or $HF_TOKEN.
        revision: branch, created if it does not exist. None: "main".
        commit_message: first line of the commit message. None: "Upload NAME".
        commit_description: rest of the commit message.
        create_pr: whether to open a pull request instead of committing to the branch.

    Returns:
        URL of the commit or pull request.

    Raises:
        ConfigurationError: `revision` is not a valid branch name.
        RepositoryNotFoundError, GatedRepoError, HfHubHTTPError, ...: the errors of huggingface_hub, unchanged.
    """
    check_revision(revision)
    api = HfApi(token=token)
    api.create_repo(upload.repo_id, private=private, exist_ok=True)
    if revision not in (None, "main") and not str(revision).startswith(PULL_REQUESTS):
        api.create_branch(upload.repo_id, branch=str(revision), exist_ok=True)
    # not `upload_folder`, which may create several commits
    commit = api.create_commit(
        upload.repo_id,
        [CommitOperationAdd(name, content) for name, content in upload.files.items()],
        commit_message=commit_message or f"Upload {upload.repo_id.rpartition('/')[2]}",
        commit_description=commit_description,
        create_pr=create_pr,
        revision=revision,
    )
    return str(commit.pr_url if create_pr else commit.commit_url)


def check_repo_id(repo_id: str, argument: str = "repo_id") -> None:
    """Raises ConfigurationError unless `repo_id` is a valid "owner/name"."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(f'`{argument}` must be "owner/name", got {repo_id!r}: {error}') from error
    if repo_id.count("/") != 1:
        raise ConfigurationError(f'`{argument}` must be "owner/name", got {repo_id!r}')


def check_revision(revision: Any) -> None:
    """Checks the name of a branch to push to, as `git check-ref-format --branch` does; None is valid.

    Raises:
        ConfigurationError: not a valid branch name.
    """
    is_commit = isinstance(revision, str) and _COMMIT.match(revision) is not None
    if revision is None or (isinstance(revision, str) and _BRANCH.fullmatch(revision) and not is_commit):
        return
    rule = "not a commit" if is_commit else "without spaces and any of ~^:?*[\\"
    raise ConfigurationError(f"`revision` must be a branch name, {rule}, got {revision!r}")


def full_id(repo_id: str, token: bool | str | None = None) -> str:
    """Completes a bare repository name to "owner/name" with the owner of the token, as huggingface_hub does."""
    if not isinstance(repo_id, str) or "/" in repo_id or not repo_id:
        return repo_id
    return f"{HfApi(token=token).whoami()['name']}/{repo_id}"


def push(
    saved: Any,
    repo_id: str,
    *,
    license: str | None = None,
    card: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    token: bool | str | None = None,
    safe_serialization: bool = True,
    **options: Any,
) -> str:
    """Saves a pipeline or a single restorer to a temporary folder, and pushes it.

    Args:
        saved: pipeline or restorer, with `save_pretrained`.
        repo_id: "owner/name", or a name in the namespace of the token's owner.
        license, card: see `prepare`.
        variant: variant in the names of the weight files, e.g. "fp16".
        token, options: see `send`.
        safe_serialization: must be True; this package writes no pickle files.

    Raises:
        TypeError: unknown argument.
        ValueError: `safe_serialization=False`.
    """
    unknown = sorted(set(options) - ({*inspect.signature(send).parameters} - {"upload"}))
    if unknown:
        raise TypeError(f"push_to_hub takes no argument {', '.join(f'`{name}`' for name in unknown)}")
    if not safe_serialization:
        raise ValueError("`safe_serialization` must be True: pickle files run code when they are opened")
    check_license(license)
    check_revision(options.get("revision"))
    with tempfile.TemporaryDirectory() as folder:
        saved.save_pretrained(folder, variant=variant)
        upload = prepare(folder, full_id(repo_id, token), license=license, card=card)
        return send(upload, token=token, **options)


# --- files ---


def _checked_components(folder: Path) -> list[str]:
    """Returns the names of the components in a pipeline's folder, after a check that they are complete."""
    index = read_index(folder)
    components = [name for name in COMPONENTS if isinstance(index.get(name), list) and index[name][1]]
    check_folder(folder, components, [PIPELINE_CLASS], stored_variant(folder / "restorer"))
    return components


def _network_files(folder: Path, component: str, repo_id: str, license: License) -> dict[str, bytes | Path]:
    """Returns config, with the license, and weights of a component; of the folder of a single network for ""."""
    prefix = f"{component}/" if component else ""
    name = f"{prefix}{CONFIG_NAMES.get(component, 'config.json')}"
    config = {**without_machine(read_json(folder / name, "")), "_name_or_path": repo_id}
    if "license" in config:
        config["license"] = license.key
    files: dict[str, bytes | Path] = {name: json_bytes(config)}
    for path in sorted((folder / component).glob(f"{WEIGHTS}*")):
        if path.is_file() and (path.suffix == SAFETENSORS or f"{SAFETENSORS}.index" in path.name):
            files[f"{prefix}{path.name}"] = path
    return files


# --- card ---


def _written_card(folder: Path, card: str | os.PathLike[str] | None) -> str | None:
    """Returns the text of the card that a user wrote; None if the card is to be rendered."""
    path = Path(card) if card is not None else folder / CARD
    text = text_of(path, "card", "Markdown") if card is not None or path.is_file() else RENDERED
    return None if RENDERED in text else text


def _license_of_upload(description: Description, identifier: str | None) -> License:
    """Returns the license of an upload: the recorded one, or the one that the publisher states.

    Raises:
        ConfigurationError: the publisher states another license than the recorded one, which is non-commercial.
    """
    recorded = description.license
    if identifier is None or identifier in (recorded.identifier, recorded.name):
        return recorded
    if recorded.non_commercial:
        raise ConfigurationError(
            f"`license` is {identifier!r}, but these weights are under {recorded.key}: {recorded.text}"
        )
    return license_named(identifier)
