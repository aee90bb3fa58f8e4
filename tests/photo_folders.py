"""Folders of small photos cut from scikit-image's."""

import numpy as np
from PIL import Image
from skimage import data


def write_photos(folder, count, *, height=48, width=64, photo=None, suffix="png"):
    """`count` different cuttings, named 0 to count - 1."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = data.astronaut() if photo is None else photo
    for index in range(count):
        top, left = 37 * index % (photo.shape[0] - height), 53 * index % (photo.shape[1] - width)
        pixels = np.ascontiguousarray(photo[top : top + height, left : left + width])
        Image.fromarray(pixels).save(folder / f"photo {index}.{suffix}")
    return folder
