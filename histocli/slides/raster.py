"""PNG, JPEG, WebP and BMP: decoded at once by imagecodecs, without a recorded pixel size."""

from pathlib import Path

import imagecodecs

from histocli.base.errors import UnsupportedSlide
from histocli.base.types import RGBImage
from histocli.slides.colours import to_rgb
from histocli.slides.slide import Slide


class RasterSlide(Slide):
    """An image of one level that is decoded at once, by a codec of imagecodecs."""

    backend = "imagecodecs"
    may_assume_mpp = True

    def __init__(self, path: Path, given_mpp: float | None = None, *, codec: str) -> None:
        super().__init__(path, given_mpp)
        self._codec = codec

    def _decode(self) -> RGBImage:
        data = self.path.read_bytes()
        # The JPEG codec fills a missing end with grey. The end-of-image mark after the last scan
        # says that all is there.
        is_jpeg = self._codec == "jpeg8"
        if is_jpeg and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise UnsupportedSlide(
                f"{self.path}: is truncated "
                f"(no end-of-image mark after {len(data)} bytes); copy it again"
            )
        values = getattr(imagecodecs, f"{self._codec}_decode")(data)
        if is_jpeg and values.ndim == 3 and values.shape[2] == 4:
            raise UnsupportedSlide(
                f"{self.path}: is a CMYK image, made for print; convert it to RGB"
            )
        return to_rgb(values, self.path)
