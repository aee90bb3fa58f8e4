"""Draws the README's picture from scikit-image's photos with simulated camera noise.

python examples/readme_picture.py
"""

import tempfile
from pathlib import Path

from demo import DemoData, compare

from daa_diffusers.data.demo_photos import demo_photos

TARGET = Path(__file__).resolve().parents[1] / "docs" / "before_after.png"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = demo_photos(folder)
        data = DemoData("self-made", [made.clean], made.real_train_noisy, made.real_val_noisy, made.real_val_clean)
        TARGET.parent.mkdir(exist_ok=True)
        compare(data, None, TARGET, rows_shown=3)


if __name__ == "__main__":
    main()
