"""Pipelines to the Hub: the files that belong to one, made free of this machine, with card and code, in one commit."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors.torch import load_file

from ..errors import CheckpointError, ConfigurationError
from .card import RENDERED, given_card, read_card, render_card
from .description import EVALUATION, TRAINING, Description, Licence, describe, training_record
from .repository import PIPELINE_CLASS, check_traces, json_bytes, with_code, without_machine
from .resolving import CONFIG_NAMES, MODEL_INDEX, SAFETENSORS, WEIGHTS, check_folder, read_index, resolve
from .untrusted import check_inside, read_json

if TYPE_CHECKING:
    from ..pipelines.pipeline_daa_restoration import DAARestorationPipeline

logger = logging.getLogger(__name__)

CARD = "README.md"
COMPONENTS = ("restorer", "unet", "scheduler")
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt")


@dataclass(frozen=True)
class Upload:
    """What a push sends, looked at before it is sent.

    Args:
        repo_id: "owner/name".
        files: path in the repository -> content, or the local file that holds it.
        left_out: files of the folder that do not belong to a pipeline, and stay here.
    """

    repo_id: str
    files: dict[str, bytes | Path]
    left_out: tuple[str, ...] = ()

    @property
    def card(self) -> str:
        """The text of README.md."""
        content = self.files[CARD]
        assert isinstance(content, bytes)
        return content.decode()

    def size(self, name: str) -> int:
        """Bytes of a file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def prepare(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    license: str | None = None,
    card: str | os.PathLike[str] | None = None,
) -> Upload:
    """Collects what a push of a folder sends. Nothing is changed, nothing sent.

    Args:
        folder: of a pipeline, the output folder of a training run, or a bundled name.
        repo_id: "owner/name".
        license: of the weights, as the Hub knows it ("apache-2.0"). Needless where the folder says it.
        card: a Markdown file to use as README.md. None: the folder's own, else one rendered from the folder's files.

    Raises:
        CheckpointError: where the folder is no whole pipeline, or a file is a link out of it.
        ConfigurationError: on another argument that cannot be right, a licence that the weights do not have, or a file
            with an access token or a path of this machine.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(f'`repo_id` must be "owner/name", got {repo_id!r}: {error}') from error
    if repo_id.count("/") != 1:
        raise ConfigurationError(f'`repo_id` must be "owner/name", got {repo_id!r}')
    source = resolve(folder, "folder")
    if source.kind != "folder":
        raise CheckpointError(f"`folder` must be a pipeline's, or a bundled name, got {os.fspath(folder)!r}")
    folder = Path(source.location)
    index = read_index(folder)
    components = [name for name in COMPONENTS if isinstance(index.get(name), list) and index[name][1]]
    check_folder(folder, components, [PIPELINE_CLASS], _variant(folder / "restorer"))

    files = _weights_and_configs(folder, components, repo_id)
    code, index = with_code(index, components)
    files[MODEL_INDEX] = json_bytes({**index, "_name_or_path": repo_id})
    files |= code
    training = without_machine(training_record(folder))
    if training:
        files[TRAINING] = json_bytes(training)
    for name in (EVALUATION, *LICENCE_FILES):
        if (folder / name).is_file():
            files[name] = (folder / name).read_bytes()
    files[CARD] = _card(describe(folder, training), repo_id, license, _given(folder, card), bool(code)).encode()
    check_inside(folder, [folder / name for name in files])
    for name, content in files.items():
        check_traces(name, content, folder)
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    left_out = tuple(name for name in (path.relative_to(folder).as_posix() for path in found) if name not in files)
    return Upload(repo_id, files, left_out)


def send(
    upload: Upload,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Makes the repository where it does not exist, and commits everything at once.

    Args:
        upload: of `prepare`.
        private: of a new repository; None: as its owner has set for new ones.
        token: None: of `hf auth login` or $HF_TOKEN.
        revision: a branch, made where it does not exist; None: "main".
        commit_message: None: "Upload NAME".

    Returns:
        The address of the commit.

    Raises:
        RepositoryNotFoundError, GatedRepoError, HfHubHTTPError, ...: the errors of huggingface_hub, as they are.
    """
    api = HfApi(token=token)
    api.create_repo(upload.repo_id, private=private, exist_ok=True)
    if revision not in (None, "main"):
        api.create_branch(upload.repo_id, branch=str(revision), exist_ok=True)
    # not upload_folder, which may split what it sends into several commits
    commit = api.create_commit(
        upload.repo_id,
        [CommitOperationAdd(name, content) for name, content in upload.files.items()],
        commit_message=commit_message or f"Upload {upload.repo_id.rpartition('/')[2]}",
        revision=revision,
    )
    return str(commit.commit_url)


def push_pipeline(
    pipeline: "DAARestorationPipeline",
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
    card: str | os.PathLike[str] | None = None,
    variant: str | None = None,
) -> str:
    """Saves a pipeline for a moment and pushes it: see `prepare` and `send`.

    The record of how the weights were made (and so their licence) goes with it from the folder that the pipeline was
    loaded from; its numbers too, unless the weights have changed since.
    """
    origin = pipeline._origin
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, variant=variant)
        if origin is not None:
            _bring(origin, Path(folder))
        upload = prepare(folder, repo_id, license=license, card=card)
        return send(upload, private=private, token=token, revision=revision, commit_message=commit_message)


# --- files ---


def _bring(origin: Path, folder: Path) -> None:
    """Copies what belongs to the weights beside them, from where they came from."""
    training = training_record(origin)
    if training:
        (folder / TRAINING).write_bytes(json_bytes(training))
    names = [*LICENCE_FILES, CARD]
    if (origin / EVALUATION).is_file():
        if _same_weights(origin / "restorer", folder / "restorer"):
            names.append(EVALUATION)
        else:
            logger.warning(
                "the weights are not those of %s any more: its numbers are left out of the card", origin.name
            )
    check_inside(origin, [origin / name for name in names])
    for name in names:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)


def _same_weights(one: Path, other: Path) -> bool:
    stored = []
    for folder in (one, other):
        files = sorted(folder.glob(f"{WEIGHTS}*{SAFETENSORS}"))
        stored.append({name: tensor.float() for file in files for name, tensor in load_file(file).items()})
    first, second = stored
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _variant(folder: Path) -> str | None:
    """None where a component has weights without a variant, else the first variant that it has."""
    names = [path.name for path in sorted(folder.glob(f"{WEIGHTS}*")) if not path.is_dir()]
    if any(re.match(rf"{WEIGHTS}(-\d|{re.escape(SAFETENSORS)}(\.index\.json)?$)", name) for name in names):
        return None
    found = [match[1] for name in names if (match := re.match(rf"{WEIGHTS}\.(\w+?)[.-]", name))]
    return found[0] if found and found[0] != SAFETENSORS[1:] else None


def _weights_and_configs(folder: Path, components: Sequence[str], repo_id: str) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {}
    for component in components:
        name = f"{component}/{CONFIG_NAMES.get(component, 'config.json')}"
        config = read_json(folder / name, "")
        files[name] = json_bytes({**without_machine(config), "_name_or_path": repo_id})
        for path in sorted((folder / component).glob(f"{WEIGHTS}*")):
            if path.is_file() and (path.suffix == SAFETENSORS or f"{SAFETENSORS}.index" in path.name):
                files[f"{component}/{path.name}"] = path
    return files


# --- card ---


def _given(folder: Path, card: str | os.PathLike[str] | None) -> str | None:
    """The card that a person wrote; None where it is to be rendered."""
    path = Path(card) if card is not None else folder / CARD
    text = read_card(path) if card is not None or path.is_file() else RENDERED
    return None if RENDERED in text else text


def _card(description: Description, repo_id: str, identifier: str | None, given: str | None, with_code: bool) -> str:
    licence = description.licence
    if identifier is not None:
        if licence.non_commercial and identifier != licence.identifier:
            raise ConfigurationError(
                f"`license` is {identifier!r}, but these weights are under {licence.name}: {licence.text}"
            )
        if not licence.non_commercial:
            licence = Licence(identifier, text=f"The weights: {identifier}, as their publisher says.")
    if given is None:
        return render_card(description, repo_id, licence, with_code=with_code)
    return given_card(given, description, repo_id, licence)
