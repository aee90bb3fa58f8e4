"""The order of the rooms: a module imports from its own room and from those below it, so that there is no circle."""

import ast
from pathlib import Path

import pytest

from .conftest import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "daa_diffusers"
ROOMS = [  # from the lowest to the highest
    *("errors", "files", "telemetry", "photos"),
    *("models", "foreign", "checkpoints", "hub", "adapters", "pipelines", "official", "export"),
    *("degradations", "sources", "degradations.fitting", "evaluation", "objectives"),
    *("restoring", "training", "bulk", "demo", "cli"),
]
UPWARD = {"hub/card.py: objectives.registry.OBJECTIVES"}  # imported late: the name of an objective on a card
# Paths of earlier versions, which saved files and other people's code may hold.
EARLIER_PATHS = {"convert.py", "data/__init__.py", "models/foreign_restorer.py"}


def room_of(module: str) -> str | None:
    """The room of a module of this package ("hub.card"); None of the package itself."""
    names = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(names, key=len, default=None)


def imported(path: Path) -> list[str]:
    """The modules of this package that a file imports, anywhere in it, by their names below the package."""
    place = path.relative_to(PACKAGE).with_suffix("").parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*place[: len(place) - node.level], *(node.module.split(".") if node.module else [])]
            found += [".".join([*base, alias.name]) for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_below_it(room):
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if room_of(name.removesuffix(".py").replace("/", ".")) != room or name in EARLIER_PATHS:
            continue
        below = ROOMS[: ROOMS.index(room) + 1]
        wrong += [f"{name}: {module}" for module in imported(path) if room_of(module) not in (*below, None)]
    assert set(wrong) - UPWARD == set()


def test_every_module_has_a_room():
    names = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - EARLIER_PATHS - {"__init__.py"}
    assert [name for name in sorted(names) if room_of(name.removesuffix(".py").replace("/", ".")) is None] == []
