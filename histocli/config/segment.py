"""Settings of ``histosynth segment``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_mpp

FORMATS = ("ome-zarr", "tiff", "overlay")


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of segmentation; one field per command-line option."""

    formats: tuple[str, ...] = ("ome-zarr",)
    """What to write for each slide: ome-zarr, tiff, overlay."""
    mpp: float | None = None
    """Pixel size of the inputs, in micrometres per pixel; overrides what they record."""
    tile_px: int = 2048
    """Side of the kept core of a tile, in pixels at the model's resolution."""

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        if not self.formats:
            raise InvalidOption(f"--format must name at least one of {', '.join(FORMATS)}")
        for name in self.formats:
            if name not in FORMATS:
                raise InvalidOption(f"--format must be among {', '.join(FORMATS)}, got {name!r}")
        if not 64 <= self.tile_px <= 8192 or self.tile_px % 32:
            raise InvalidOption(f"--tile-px must be a multiple of 32 between 64 and 8192, got {self.tile_px}")
