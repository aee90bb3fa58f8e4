"""Renders the model cards of the bundled checkpoints from their files.

python examples/model_cards.py
"""

from pathlib import Path

from daa_diffusers.checkpoints import bundled_names, bundled_path
from daa_diffusers.files import write_text
from daa_diffusers.hub.card import render_card
from daa_diffusers.hub.description import describe

CARDS = Path(__file__).resolve().parents[1] / "model_cards"

if __name__ == "__main__":
    for name in bundled_names():
        write_text(CARDS / f"{name}.md", render_card(describe(bundled_path(name)), name))
