"""Licenses of weights: the one that applies, by the record of the weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import RENAMED, bundled_names, bundled_path


@dataclass(frozen=True)
class License:
    """A license of weights.

    Args:
        identifier: of the Hub ("apache-2.0", "other", ...); None: not stated.
        name, link: of a license without an identifier on the Hub.
        text: a sentence for the card.
        non_commercial: the weights may not be used commercially, whatever other records state.
    """

    identifier: str | None
    name: str | None = None
    link: str | None = None
    text: str = ""
    non_commercial: bool = False

    @property
    def key(self) -> str | None:
        """The entry of a saved config: the name, else the identifier; None where neither is stated."""
        return self.name or self.identifier

    def metadata(self) -> dict[str, str]:
        """The fields of a card's metadata."""
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


# Bundled checkpoints whose weights were once, under this name, trained on research-only photos. Records without
# a license are from before the change, so that training may have started from the earlier weights.
ONCE_RESEARCH = frozenset({"daa-denoise", "daa-denoise-plain", "daa-derain", "daa-deblur"})


def license_named(said: str) -> License:
    """The license that a config, a record or a person names: a known name, an identifier of the Hub, or words."""
    if said in _NAMED:
        return _NAMED[said]
    words = said.lower()
    restricted = "non-commercial" in words or "noncommercial" in words or re.search(r"\bnc\b", words) is not None
    if re.fullmatch(r"[\w.+-]+", said):
        note = " **Non-commercial use only.**" if restricted else ""
        return License(said, text=f"The weights: {said}, as their publisher states.{note}", non_commercial=restricted)
    if restricted:
        return License(RESEARCH.identifier, RESEARCH.name, text=said, non_commercial=True)
    return License(None, text=said)


def strictest(*licenses: License) -> License:
    """The first one that forbids commercial use, else the first that states anything."""
    stated = [license for license in licenses if license != UNKNOWN]
    return next((license for license in stated if license.non_commercial), next(iter(stated), UNKNOWN))


def license_of(training: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> License:
    """The license of weights, by all that is recorded of them; a stricter one is never lost.

    Args:
        training: how they were made (`training.json`). What starts from bundled weights inherits their license.
        config: of the restorer.
    """
    said = [training.get("license"), training.get("licence"), (config or {}).get("license")]
    options = training.get("options")
    starts = Path(str(options.get("init_from"))).name if isinstance(options, Mapping) else ""
    stated = [license_named(one) for one in said if isinstance(one, str) and one]
    inherited = [_bundled(starts)] if starts in bundled_names() else []
    if starts in RENAMED or (not stated and starts in ONCE_RESEARCH):  # no free weights ever had a name that is renamed
        inherited = [RESEARCH]
    return strictest(*stated, *inherited)


def _bundled(name: str) -> License:
    record = json.loads((bundled_path(name) / "training.json").read_text(encoding="utf-8"))
    license = license_of(record)
    return RESEARCH if license.non_commercial else license
