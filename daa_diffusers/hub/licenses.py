"""Licenses of weights, and which of them applies to a checkpoint."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from ..checkpoints import RENAMED, bundled_names, bundled_path
from ..errors import ConfigurationError, did_you_mean


@dataclass(frozen=True)
class License:
    """License of weights.

    Args:
        identifier: identifier of the Hub ("apache-2.0", "other", ...). None: not stated.
        name, link: name and address of a license without an identifier on the Hub.
        text: sentence for the card.
        non_commercial: whether commercial use is forbidden. Takes precedence over other records.
    """

    identifier: str | None
    name: str | None = None
    link: str | None = None
    text: str = ""
    non_commercial: bool = False

    @property
    def key(self) -> str | None:
        """The entry for a saved config: the name, else the identifier; None if neither is stated."""
        return self.name or self.identifier

    def metadata(self) -> dict[str, str]:
        """Returns the license fields of a card's metadata."""
        named = {"license": self.identifier, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in named.items() if value}


RESEARCH = License(
    "other",
    "non-commercial-research",
    text="The weights were trained on research-only photos: for **non-commercial research use only**. The code that "
    "made them is Apache-2.0.",
    non_commercial=True,
)
S_LAB = License(
    "other",
    "s-lab-license-1.0",
    "https://github.com/KangLiao929/Noise-DA/blob/main/LICENSE",
    text="The weights are converted from the official implementation's and keep its license, the S-Lab License 1.0: "
    "**non-commercial use only**. The code that converted them is Apache-2.0.",
    non_commercial=True,
)
UNKNOWN = License(None, text="The publisher of the weights has not stated a license.")
_NAMED = {license.name: license for license in (RESEARCH, S_LAB)}
# Identifiers that the Hub accepts in a card: huggingface.co/docs/hub/repositories-licenses
_IDENTIFIERS = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
unlicense wtfpl zlib
"""
HUB_LICENSES = frozenset(_IDENTIFIERS.split())


MAX_METADATA = 2**20  # characters at the start of a card that are searched for its metadata
# Names of bundled checkpoints whose earlier weights were trained on research-only photos. A record without a license
# predates the change of weights, so that its training may have started from the earlier ones.
ONCE_RESEARCH = frozenset({"daa-denoise", "daa-denoise-plain", "daa-derain", "daa-deblur"})


def license_named(name: str) -> License:
    """Parses a license from a config, a record or a user: a known name, an identifier of the Hub, or free text."""
    if name in _NAMED:
        return _NAMED[name]
    lower = name.lower()
    restricted = "non-commercial" in lower or "noncommercial" in lower or re.search(r"\bnc\b", lower) is not None
    if re.fullmatch(r"[\w.+-]+", name):
        text = f"The weights: {name}, as their publisher states."
        text += " **Non-commercial use only.**" if restricted else ""
        if lower in HUB_LICENSES:
            return License(lower, text=text, non_commercial=restricted)
        return License("other", name, text=text, non_commercial=restricted)
    if restricted:
        return License(RESEARCH.identifier, RESEARCH.name, text=name, non_commercial=True)
    return License(None, text=name)


def card_license(path: Path) -> License:
    """Returns the license that the metadata of a card states; `UNKNOWN` without a card or valid metadata."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            match = REGEX_YAML_BLOCK.search(file.read(MAX_METADATA))
        metadata = yaml.safe_load(match[2]) if match else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return UNKNOWN
    if not isinstance(metadata, dict):
        return UNKNOWN
    names = (metadata.get("license_name"), metadata.get("license"))
    return strictest(*(license_named(name) for name in names if isinstance(name, str) and name))


def check_license(name: Any, argument: str = "license") -> None:
    """Checks the license that a user states for an upload; None is valid.

    Raises:
        ConfigurationError: neither an identifier of the Hub (in any case) nor a license name of this package.
    """
    if name is None or (isinstance(name, str) and (name in _NAMED or name.lower() in HUB_LICENSES)):
        return
    near = did_you_mean(str(name).lower(), [*HUB_LICENSES, *filter(None, _NAMED)])
    raise ConfigurationError(
        f"`{argument}` must be an identifier that the Hub lists (apache-2.0, mit, cc-by-4.0, other, ...), got {name!r}"
        + (near or "; see https://huggingface.co/docs/hub/repositories-licenses")
    )


def strictest(*licenses: License) -> License:
    """Returns the first license that forbids commercial use, else the first that is stated, else `UNKNOWN`."""
    stated = [license for license in licenses if license != UNKNOWN]
    return next((license for license in stated if license.non_commercial), next(iter(stated), UNKNOWN))


def license_of(training: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> License:
    """Returns the strictest license that the records of weights state.

    Args:
        training: training record (`training.json`). Weights trained from bundled ones inherit their license.
        config: config of the restorer.
    """
    names = [training.get("license"), training.get("licence"), (config or {}).get("license")]
    stated = [license_named(name) for name in names if isinstance(name, str) and name]
    options = training.get("options")
    start = Path(str(options.get("init_from"))).name if isinstance(options, Mapping) else ""
    inherited = [_bundled_license(start)] if start in bundled_names() else []
    if start in RENAMED or (not stated and start in ONCE_RESEARCH):  # all renamed checkpoints are research-only
        inherited = [RESEARCH]
    return strictest(*stated, *inherited)


def _bundled_license(name: str) -> License:
    """Returns the license that weights trained from a bundled checkpoint inherit."""
    record = json.loads((bundled_path(name) / "training.json").read_text(encoding="utf-8"))
    license = license_of(record)
    return RESEARCH if license.non_commercial else license
