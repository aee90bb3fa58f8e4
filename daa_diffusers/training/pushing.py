"""Upload of a run's result to the Hub, with checks before the first step."""

import logging
from pathlib import Path

from huggingface_hub import HfApi

from ..errors import ConfigurationError
from ..hub.description import describe
from ..hub.publish import check_repo_id, prepare, send
from ..hub.resolving import resolve
from .config import TrainingConfig

logger = logging.getLogger(__name__)


def check_push(config: TrainingConfig) -> str | None:
    """Checks that the result of a run can be pushed, and returns the repository; None without `push_to_hub`.

    Raises:
        ConfigurationError: the Hub cannot be reached, the token has no write access, the name is invalid or belongs to
            another account, or non-commercial initial weights have another license than `hub_license`.
    """
    if not config.push_to_hub:
        return None
    try:
        account = HfApi().whoami()
    except Exception as error:  # the client, the network and the system raise different errors
        raise ConfigurationError(
            "`push_to_hub` needs access to the Hub and a token with write access (`hf auth login`, or HF_TOKEN in the "
            f"environment); huggingface_hub reports: {error}"
        ) from error
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ConfigurationError("`push_to_hub` needs a token with write access; this one can only read")
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    repo_id = name if "/" in name else f"{account['name']}/{name}"
    check_repo_id(repo_id, "hub_model_id")
    owners = [account["name"], *(each["name"] for each in account.get("orgs", []))]
    if repo_id.partition("/")[0] not in owners:
        raise ConfigurationError(f"`hub_model_id` must belong to one of {', '.join(owners)}, got {repo_id!r}")
    _check_license(config)
    return repo_id


def _check_license(config: TrainingConfig) -> None:
    """Raises ConfigurationError if non-commercial initial weights have another license than `hub_license`."""
    if config.hub_license is None or config.init_from is None:
        return
    source = resolve(config.init_from, "init_from")
    if source.kind != "folder" or not (Path(source.location) / "model_index.json").is_file():
        return
    license = describe(Path(source.location)).license
    if license.non_commercial and license.identifier != config.hub_license:
        raise ConfigurationError(
            f"`hub_license` is {config.hub_license!r}, but the weights of `init_from` are under {license.name}: "
            f"{license.text}"
        )


def push_result(config: TrainingConfig, repo_id: str) -> str:
    """Pushes the pipeline of a finished run, with its card, in one commit; returns the commit's URL.

    Raises:
        ConfigurationError: pushing failed. The message names the reason and the command to push again.
    """
    try:
        upload = prepare(config.output_dir, repo_id, license=config.hub_license)
        return send(upload, private=config.hub_private, commit_message="End of training")
    except Exception as error:  # the run is done, whatever the error
        license = f" --license {config.hub_license}" if config.hub_license else ""
        raise ConfigurationError(
            f"the run is done and saved, but pushing it failed: {error}\n"
            f"To push it: daa push {config.output_dir} {repo_id}{license}"
        ) from error
