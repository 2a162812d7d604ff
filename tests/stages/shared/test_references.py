"""References: whatever can be segmented can be a reference."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from histocli.slides.open import FILE_KINDS, SLIDE_SUFFIXES
from histocli.stages.shared.references import identify_references, named_references
from tests.slides.files import gradient, write_ndpi, write_ome_zarr

PIXELS = gradient(64, 80)
SUFFIXES = [suffix for known in FILE_KINDS for suffix in known.suffixes]


def write(path):
    """A file of the kind that its suffix tells; openslide reads generic TIFFs of any name."""
    codecs = {".png": "png", ".bmp": "bmp", ".webp": "webp", ".jpg": "jpeg8", ".jpeg": "jpeg8"}
    if path.suffix == ".zarr":
        write_ome_zarr(path, PIXELS, version="0.5", mpp=0.25)
    elif path.suffix == ".ndpi":
        write_ndpi(path, PIXELS, mpp=0.25)
    elif path.suffix in codecs:
        path.write_bytes(getattr(imagecodecs, f"{codecs[path.suffix]}_encode")(PIXELS))
    else:
        tifffile.imwrite(
            path, PIXELS, photometric="rgb", tile=(32, 32), resolution=(4e4, 4e4), resolutionunit=3
        )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_slide_is_accepted_as_a_reference(tmp_path, suffix):
    path = tmp_path / f"reference{suffix}"
    write(path)
    images = named_references([str(tmp_path if suffix in SLIDE_SUFFIXES else path)])
    (source,), failed = identify_references(
        images, mpp=0.25, reference_mpp=None, tolerant=False, command="generate"
    )
    assert (source.path, failed) == (path, [])
    assert source.mpp == pytest.approx(0.25)
    difference = np.abs(source.read().astype(int) - PIXELS).mean()
    assert difference < (20 if suffix in (".jpg", ".jpeg", ".webp") else 1e-9)
