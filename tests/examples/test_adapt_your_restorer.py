"""The 20 lines of the page on other restorers: they are on the page, and they run."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "adapt_your_restorer.py"


@pytest.fixture
def example(monkeypatch):
    spec = importlib.util.spec_from_file_location("adapt_your_restorer", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "adapt_your_restorer", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path):
    draw = np.random.default_rng(0)
    for folder, noise in (("clean", 0), ("my photos", 20)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            smooth = np.kron(draw.integers(40, 215, (8, 8, 3)), np.ones((8, 8, 1)))
            pixels = (smooth + noise * draw.standard_normal((64, 64, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def test_the_page_shows_the_example():
    code = EXAMPLE.read_text().split('"""\n', 1)[1].split("\n\n\nif __name__")[0].strip()
    page = (ROOT / "docs" / "any_restorer.md").read_text()
    assert f"```python\n{code}\n```" in page
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 20


def test_a_network_of_ones_own_is_adapted_saved_and_restores(example, photos):
    options = {"steps": 4, "patch": 16, "batch_size": 2, "fit_noise": 0.0, "predictor_warmup_steps": 1, "threads": 1}
    quiet = {"health": False, "report_to": "none", "validate_every": 0}
    pipe = example.main(str(photos / "clean"), str(photos / "my photos"), str(photos / "out"), **options, **quiet)
    assert pipe.restorer.config.architecture == "adapt_your_restorer:MyDenoiser"
    start = example.DAARestorationPipeline.from_pretrained(photos / "out" / "start").restorer.network
    moved = [not (a == b).all() for a, b in zip(start.parameters(), pipe.restorer.network.parameters(), strict=True)]
    assert all(moved)
    photo = Image.open(photos / "my photos" / "0.png").crop((0, 0, 33, 21))
    assert pipe(photo).images[0].size == (33, 21)
