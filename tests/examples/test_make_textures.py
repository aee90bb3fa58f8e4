"""Pictures of textures: as many as asked for, equal for equal numbers, of every kind."""

import numpy as np
from PIL import Image

from examples.make_textures import PATTERNS, main, render


def test_pictures_are_written_and_equal_numbers_give_equal_ones(tmp_path):
    main([str(tmp_path / "textures"), "--count", str(len(PATTERNS)), "--side", "64"])
    paths = sorted((tmp_path / "textures").iterdir())
    assert len(paths) == len(PATTERNS)
    for number, path in enumerate(paths):
        picture = np.asarray(Image.open(path))
        assert picture.shape == (64, 64, 3) and picture.std() > 5
        assert np.array_equal(picture, render(number, 64))
