"""The notebook: small enough for the repository, and it runs from top to bottom."""

import ast

import nbformat
import pytest
from PIL import Image

from ..conftest import PROJECT_ROOT

NOTEBOOK = PROJECT_ROOT / "examples" / "adapt_to_your_camera.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 5
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []
    for cell in cells:
        ast.parse(cell.source)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_notebook_runs_on_photos_that_it_makes(notebook, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    for name, value in {"DAA_MINUTES": "0.05", "DAA_OUTPUT": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}.items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=1700, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "\n".join(str(output.get("text", output.get("data", {}).get("text/markdown", ""))) for output in outputs)
    for expected in ("photos to adapt to", "steps in", "identity", "plain", "adapted", "PSNR"):
        assert expected in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert Image.open(tmp_path / "restored.png").size == (192, 192)
