"""What a slide is, told from its metadata."""

from contextlib import closing
from pathlib import Path

from histocli.base.errors import UnknownPixelSize
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of
from histocli.stages.info.description import Description, megabytes


def describe_slide(path: Path) -> Description:
    """Describe a slide; one that records no pixel size is described all the same."""
    known = True
    try:
        slide = open_slide(path)
    except UnknownPixelSize:
        known, slide = False, open_slide(path, mpp=1.0)
    with closing(slide):
        height, width = shape_of(slide)
        mpp = slide.mpp
        contents = {
            "backend": slide.backend,
            "height_px": height,
            "width_px": width,
            "megapixels": round(height * width / 1e6, 2),
            "mpp": mpp if known else None,
            "mpp_source": slide.mpp_source if known else "none",
            "mm2": round(height * width * mpp**2 / 1e6, 4) if known else None,
            "levels": [
                {
                    "height_px": level.shape[0],
                    "width_px": level.shape[1],
                    "downsample": round(level.downsample, 4),
                    "mpp": round(mpp * level.downsample, 5) if known else None,
                }
                for level in slide.levels
            ],
            "megabytes": megabytes(path),
        }
    return Description(kind="slide", contents=contents)
