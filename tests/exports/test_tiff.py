"""Label TIFFs read back, with their pixel size."""

from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from histocli.exports.content import Content
from histocli.exports.tiff import write_label_tiff


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (513, 20), (700, 900)])
def test_labels_read_back_with_their_pixel_size(tmp_path, shape):
    labels = np.random.default_rng(0).integers(0, 100_000, shape, np.int32)
    nuclei = SimpleNamespace(level=lambda number: labels, mpp=0.499)
    content = Content(nuclei=nuclei, read_windows=None, read_shrunk=None)
    write_label_tiff(tmp_path / "a.tif", content, {})
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages.first
        np.testing.assert_array_equal(page.asarray(), labels)
        assert page.dtype == np.uint32
        n, per = page.tags["XResolution"].value
        assert page.tags["ResolutionUnit"].value == 3
        assert 1e4 * per / n == pytest.approx(0.499)
