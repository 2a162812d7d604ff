"""Pictures come back as they were written."""

import cv2
import numpy as np

from histocli.exports.pictures import write_png


def test_a_png_comes_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "new" / "sheet.png", np.zeros((2, 2, 3), np.uint8))
    write_png(tmp_path / "new" / "sheet.png", image[:, ::-1])
    found = cv2.imread(str(tmp_path / "new" / "sheet.png"))
    np.testing.assert_array_equal(found[..., ::-1], image[:, ::-1])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]
