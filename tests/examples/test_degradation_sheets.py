"""The pictures of docs/degradations.md are made by the committed program, from photos that need no download."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sheets():
    spec = importlib.util.spec_from_file_location("degradation_sheets", ROOT / "examples" / "degradation_sheets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_program_writes_a_picture_and_a_line_of_the_table_for_each_degradation(sheets, tmp_path, capsys):
    sheets.main(["--output_dir", str(tmp_path), "--draws", "2"])
    printed = capsys.readouterr().out
    for name in sheets.DEGRADATIONS:
        with Image.open(tmp_path / f"{name}.jpg") as picture:
            assert min(picture.size) >= 192
        (line,) = [line for line in printed.splitlines() if line.startswith(f"| `{name}` |")]
        values = [float(cell) for cell in line.split("|")[2:-1]]
        assert len(values) == len(sheets.QUANTILES)
        assert values == sorted(values)
    assert (tmp_path / "motion_blur_psfs.jpg").exists()


def test_the_docs_show_what_the_program_makes(sheets):
    page = (ROOT / "docs" / "degradations.md").read_text()
    made = {f"{name}.jpg" for name in sheets.DEGRADATIONS} | {"motion_blur_psfs.jpg"}
    shown = {name for name in made if f"degradations/{name}" in page}
    assert shown == made
