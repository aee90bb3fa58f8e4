"""Contact sheets: the right pixels in the right cells, readable texts, nothing half-written."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from daa_diffusers.evaluation import contact_sheet

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def plain(color, width=64, height=64):
    return Image.new("RGB", (width, height), color)


def read(path):
    with Image.open(path) as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"
        return np.asarray(sheet).copy()


def box_of(sheet, color):
    """(left, top, width, height) of the pixels of one color, which must fill their box."""
    rows, columns = np.nonzero((sheet == color).all(axis=-1))
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert len(rows) == (right - left) * (bottom - top)
    return left, top, right - left, bottom - top


def test_photos_lie_in_an_even_grid_on_white(tmp_path):
    colors = [[(20 * i + 50 * j, 90, 160) for j in range(3)] for i in range(2)]
    path = contact_sheet([[plain(c) for c in row] for row in colors], (), (), tmp_path / "sheet.png", cell=64)
    sheet = read(path)
    boxes = [[box_of(sheet, color) for color in row] for row in colors]
    assert all(box[2:] == (64, 64) for row in boxes for box in row)
    assert len({box[0] for row in boxes for box in row}) == 3 and len({box[1] for row in boxes for box in row}) == 2
    gap = boxes[0][1][0] - boxes[0][0][0] - 64
    assert gap == boxes[0][2][0] - boxes[0][1][0] - 64 == boxes[1][0][1] - boxes[0][0][1] - 64 > 0
    left, top, right, bottom = boxes[0][0][0], boxes[0][0][1], boxes[1][2][0] + 64, boxes[1][2][1] + 64
    assert (sheet.shape[1] - right, sheet.shape[0] - bottom) == (left, top)  # the same margin on every side
    outside = sheet.copy()
    for row in boxes:
        for x, y, width, height in row:
            outside[y : y + height, x : x + width] = 255
    assert (outside == 255).all()


def test_every_kind_of_image_shows_the_same_pixels(tmp_path):
    photo = skimage.data.astronaut()[100:164, 200:264]
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1) / 255
    kinds = [photo, Image.fromarray(photo), tensor, tensor.double(), photo[:, ::-1][:, ::-1]]
    sheet = read(contact_sheet([kinds], (), (), tmp_path / "kinds.png", cell=64))
    gap = (sheet.shape[1] - 5 * 64) // 8  # 4 gaps and two margins of 2 gaps
    for index in range(5):
        left = 2 * gap + index * (64 + gap)
        np.testing.assert_array_equal(sheet[2 * gap : 2 * gap + 64, left : left + 64], photo)


def test_gray_and_transparent_images(tmp_path):
    gray = skimage.data.camera()[:64, :64]
    glass = Image.new("RGBA", (64, 64), (200, 10, 10, 0))
    kinds = [gray, gray[..., None], torch.from_numpy(gray.copy())[None] / 255, Image.fromarray(gray), glass]
    sheet = read(contact_sheet([kinds], (), (), tmp_path / "gray.png", cell=64))
    gap = (sheet.shape[1] - 5 * 64) // 8
    for index in range(4):
        left = 2 * gap + index * (64 + gap)
        np.testing.assert_array_equal(sheet[2 * gap : 2 * gap + 64, left : left + 64], np.stack([gray] * 3, axis=-1))
    assert (sheet[:, 2 * gap + 4 * (64 + gap) :] == 255).all()


def test_tensors_are_clamped(tmp_path):
    low, high = torch.full((3, 64, 64), -0.4), torch.full((3, 64, 64), 7.0)
    sheet = read(contact_sheet([[low, high]], (), (), tmp_path / "clamped.png", cell=64))
    assert box_of(sheet, (0, 0, 0))[2:] == (64, 64)
    assert set(np.unique(sheet)) == {0, 255}


def test_large_photos_are_reduced_and_small_ones_enlarged_by_whole_factors(tmp_path):
    rows = [[plain(RED, 300, 200), plain(GREEN, 20, 10), plain(BLUE, 33, 64)]]
    sheet = read(contact_sheet(rows, (), (), tmp_path / "sizes.png", cell=64))
    red, green, blue = (box_of(sheet, color) for color in (RED, GREEN, BLUE))
    assert red[2:] == (64, 43) and green[2:] == (60, 30) and blue[2:] == (33, 64)
    middles = [box[1] + box[3] / 2 for box in (red, green, blue)]
    assert max(middles) - min(middles) <= 1


def test_cells_are_no_higher_than_the_photos(tmp_path):
    sheet = read(contact_sheet([[plain(RED, 128, 64)], [plain(BLUE, 128, 64)]], (), (), tmp_path / "a.png", cell=64))
    red, blue = box_of(sheet, RED), box_of(sheet, BLUE)
    assert red[2:] == blue[2:] == (64, 32)
    assert 0 < blue[1] - red[1] - 32 < 16


def test_zoom_shows_the_middle_in_blocks(tmp_path):
    photo = skimage.data.astronaut()[100:200, 200:320]  # 100 x 120
    sheet = read(contact_sheet([[photo]], (), (), tmp_path / "zoom.png", cell=66, zoom=4))
    middle = photo[42:58, 52:68]  # 66 // 4 = 16 pixels a side
    blocks = middle.repeat(4, axis=0).repeat(4, axis=1)
    top, left = (sheet.shape[0] - 64) // 2, (sheet.shape[1] - 64) // 2
    np.testing.assert_array_equal(sheet[top : top + 64, left : left + 64], blocks)


def test_titles_and_captions_take_their_own_space(tmp_path):
    rows = [[plain(RED), plain(GREEN)]]
    bare = read(contact_sheet(rows, (), (), tmp_path / "bare.png", cell=64))
    path = contact_sheet(
        rows, ["noisy", "restored"], ["photo"], tmp_path / "full.png", [["28.1 dB", "35.0 dB"]], cell=64, title="Before"
    )
    full = read(path)
    red, green = box_of(full, RED), box_of(full, GREEN)
    bare_red = box_of(bare, RED)
    assert red[2:] == green[2:] == (64, 64)  # no text over the photos
    assert red[0] > bare_red[0] and red[1] > bare_red[1]

    def ink(region):
        return (region < 128).all(axis=-1).sum()

    bottom = red[1] + 64
    for x, _, width, _ in (red, green):
        assert ink(full[: red[1], x : x + width]) > 20  # column title
        assert ink(full[bottom:, x : x + width]) > 20  # caption
    assert ink(full[red[1] : bottom, : red[0]]) > 20  # row title
    margin = full[np.r_[0:4, -4:0]], full[:, np.r_[0:4, -4:0]]
    assert all((strip == 255).all() for strip in margin)  # nothing is cut off at the edge


def test_long_texts_stay_inside_the_sheet(tmp_path):
    long = "IMG_2024 a very long file name that nobody would type but cameras and phones do write 0001.jpg"
    path = contact_sheet(
        [[plain(RED), plain(GREEN)]], [long, long], [long], tmp_path / "long.png", [[long, long]], cell=96, title=long
    )
    sheet = read(path)
    red, green = box_of(sheet, RED), box_of(sheet, GREEN)
    assert red[2:] == green[2:] == (64, 64)
    between = sheet[:, red[0] + 64 + 16 : green[0] - 16]  # the gap between the two cells
    assert between.shape[1] > 0 and (between[red[1] - 14 :] >= 240).all()
    assert (sheet[:, -6:] == 255).all() and (sheet[:, :6] == 255).all()


def test_missing_photos_and_captions_leave_blank_cells(tmp_path):
    path = contact_sheet([[plain(RED), None]], ["a", "b"], (), tmp_path / "gap.png", [["x", None]], cell=64)
    sheet = read(path)
    left, top, _, _ = box_of(sheet, RED)
    assert (sheet[top:, left + 64 :] == 255).all()


def test_writing_replaces_a_sheet_and_makes_its_folder(tmp_path):
    path = tmp_path / "new folder" / "sheet.png"
    assert contact_sheet([[plain(RED)]], (), (), str(path), cell=64) == path
    contact_sheet([[plain(BLUE)]], (), (), path, cell=64)
    assert box_of(read(path), BLUE)[2:] == (64, 64)
    assert [one.name for one in path.parent.iterdir()] == ["sheet.png"]


def test_a_failed_write_leaves_the_old_sheet_and_no_rest(tmp_path):
    (tmp_path / "sheet.png").mkdir()  # os.replace cannot put a file in its place
    with pytest.raises(OSError):
        contact_sheet([[plain(RED)]], (), (), tmp_path / "sheet.png", cell=64)
    assert [one.name for one in tmp_path.iterdir()] == ["sheet.png"]


PHOTO = plain(RED)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rows": []}, ValueError, "`rows` must have"),
        ({"rows": [[]]}, ValueError, "`rows` must have"),
        ({"rows": [[PHOTO], [PHOTO, PHOTO]]}, ValueError, r"equal numbers of photos, got \[1, 2\]"),
        ({"column_titles": ["a", "b"]}, ValueError, "`column_titles` must be 1 texts"),
        ({"column_titles": "a"}, ValueError, "`column_titles` must be 1 texts"),
        ({"row_titles": ["a", "b"]}, ValueError, "`row_titles` must be 1 texts"),
        ({"captions": [["a", "b"]]}, ValueError, "`captions` must be 1 rows of 1 texts"),
        ({"path": "sheet.jpg"}, ValueError, '`path` must end in ".png"'),
        ({"cell": 8}, ValueError, "`cell` must be at least 32"),
        ({"zoom": 0}, ValueError, "`zoom` must be a whole number from 1 to `cell`"),
        ({"zoom": 65}, ValueError, "`zoom` must be a whole number"),
        ({"zoom": 1.5}, ValueError, "`zoom` must be a whole number"),
        ({"rows": [["photo.png"]]}, TypeError, r"`rows\[0\]\[0\]` must be a PIL image.*got str"),
        ({"rows": [[np.zeros((9, 9, 3))]]}, ValueError, "must be uint8"),
        ({"rows": [[np.zeros((9, 9, 4), np.uint8)]]}, ValueError, r"got uint8 \(9, 9, 4\)"),
        ({"rows": [[np.zeros((0, 9, 3), np.uint8)]]}, ValueError, "at least one pixel"),
        ({"rows": [[torch.zeros(3, 0, 9)]]}, ValueError, "at least one pixel"),
        ({"rows": [[torch.zeros(9, 9, 3)]]}, ValueError, r"must be a float tensor \(1 or 3, H, W\)"),
        ({"rows": [[torch.zeros(3, 9, 9, dtype=torch.uint8)]]}, ValueError, "must be a float tensor"),
        ({"rows": [[torch.full((3, 9, 9), float("nan"))]]}, ValueError, "must not hold NaN, got 243 of 243"),
        ({"rows": [[Image.new("I;16", (9, 9))]]}, ValueError, "must be an 8-bit image, got PIL mode 'I;16'"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(tmp_path, changes, error, message):
    arguments = {"rows": [[PHOTO]], "column_titles": (), "row_titles": (), "path": "sheet.png", "cell": 64, **changes}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(error, match=message):
        contact_sheet(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_are_drawn(tmp_path):
    name, photo = b"caf\xe9.png".decode("utf-8", "surrogateescape"), np.zeros((32, 32, 3), np.uint8)
    contact_sheet([[photo]], [name], [name], tmp_path / "sheet.png", [[name]], 64, title=name)
    assert (tmp_path / "sheet.png").exists()
