"""Imports among the rooms of the package: those of the table in CONTRIBUTING.md, and no circles."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from .conftest import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "daa_diffusers"
FOR_ALL = {"errors", "files", "telemetry", "checkpoints"}
EARLIER_PATHS = {"data", "convert", "models.foreign_restorer", "training.adaptation"}
AT_THE_ROOT = {"convert", "errors", "export", "files", "telemetry"}


def table() -> dict[str, set[str]]:
    """Room -> rooms that it may import, in the order of CONTRIBUTING.md."""
    text = (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| .* \|(.*)\|$", text.partition("## Layout")[2].partition("\n## ")[0], re.M)
    return {room: set(re.findall(r"`([\w.]+)`", imports)) for room, imports in rows if "everything" not in imports}


def room_of(module: str) -> str:
    """Of a dotted name below the package: its first part, or that of a room within a room."""
    return "degradations.fitting" if module.startswith("degradations.fitting") else module.split(".")[0]


def imports() -> Iterator[tuple[str, str]]:
    """Every relative import of the package, wherever it stands, as (importing module, imported module)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = parts[: len(parts) - node.level]
            named = [node.module] if node.module else [alias.name for alias in node.names]
            for name in named:
                yield module, ".".join([*base, name])


def test_a_room_imports_only_those_that_the_table_names():
    allowed = table()
    wrong = []
    for module, imported in imports():
        room, other = room_of(module), room_of(imported)
        if module in EARLIER_PATHS or room in ("__init__", "cli", other) or other in FOR_ALL or other.startswith("_"):
            continue
        if other not in allowed[room]:
            wrong.append(f"{module} imports {imported}: `{room}` may import {sorted(allowed[room])}")
    assert wrong == []


def test_the_table_has_every_room_and_no_import_points_down_the_table():
    order = list(table())
    rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()} | {"export", "degradations.fitting"}
    assert set(order) == rooms - {"cli", "data", "checkpoints"}
    for room, above in table().items():
        assert all(order.index(other) < order.index(room) for other in above), room


def test_no_entry_of_the_table_is_unused():
    used = defaultdict(set)
    for module, imported in imports():
        used[room_of(module)].add(room_of(imported))
    assert {room: sorted(above - used[room]) for room, above in table().items() if above - used[room]} == {}


def test_five_modules_stand_at_the_root():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == AT_THE_ROOT


def test_earlier_paths_are_nothing_but_names():
    for module in EARLIER_PATHS:
        path = PACKAGE.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        body = ast.parse(Path(path).read_text(encoding="utf-8")).body
        assert all(isinstance(node, ast.ImportFrom | ast.Assign | ast.Expr) for node in body), module
