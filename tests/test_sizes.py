"""Sizes of files and functions: what is longer holds two ideas."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from .conftest import PROJECT_ROOT

LINES_OF_A_FILE = 350
LINES_OF_A_FUNCTION = 80
ROOMS = ("daa_diffusers", "tests", "benchmarks", "examples")


def sources() -> Iterator[Path]:
    for room in ROOMS:
        for folder, folders, files in os.walk(PROJECT_ROOT / room):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (Path(folder, name) for name in files if name.endswith(".py"))


def test_files_and_functions_are_short():
    long = []
    for path in sources():
        text, name = path.read_text(encoding="utf-8"), path.relative_to(PROJECT_ROOT)
        if text.count("\n") > LINES_OF_A_FILE:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    long.append(f"{name}, {node.name}: {lines} lines")
    assert long == []
