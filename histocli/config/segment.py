"""Settings of ``histosynth segment``."""

from dataclasses import dataclass, replace

from histocli.base.errors import InvalidOption
from histocli.base.formats import check_formats
from histocli.config.common import check_mpp

TISSUE = ("auto", "none")
LEAST_MEMORY_GB = 0.5


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of segmentation; one field per command-line option."""

    formats: tuple[str, ...] = ("ome-zarr",)
    """What to write for each slide: names of formats."""
    mpp: float | None = None
    """Pixel size of the inputs, in micrometres per pixel; overrides what they record."""
    tile_px: int = 8192
    """Largest side of the kept core of a network tile, in pixels at the model's resolution; as a
    rule a block is one tile."""
    views: int = 1
    """In how many orientations the network sees each tile: 1 to 8, averaged."""
    tissue: str = "auto"
    """Where nuclei are looked for: auto finds tissue, none leaves nothing out."""
    roi: str | None = None
    """GeoJSON file or mask image of the regions to look at, or a folder with one for each slide,
    named after it."""
    max_memory: float | None = None
    """Gigabytes that the process may take; None takes what is fastest."""
    shard: str | None = None
    """Which share of the slides to take, i/N."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers do the work."""

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        check_formats(self.formats, "segment")
        if not 64 <= self.tile_px <= 8192 or self.tile_px % 32:
            raise InvalidOption(
                f"--tile-px must be a multiple of 32 between 64 and 8192, got {self.tile_px}"
            )
        if not 1 <= self.views <= 8:
            raise InvalidOption(f"--views must lie between 1 and 8, got {self.views}")
        if self.tissue not in TISSUE:
            raise InvalidOption(f"--tissue must be auto or none, got {self.tissue!r}")
        if self.max_memory is not None and not self.max_memory >= LEAST_MEMORY_GB:
            raise InvalidOption(
                f"--max-memory must be at least {LEAST_MEMORY_GB} gigabytes, got {self.max_memory:g}"
            )
        if self.shard is not None:
            parse_shard(self.shard)

    def of_labels(self) -> "SegmentConfig":
        """Return the settings with defaults for all that does not change the labels."""
        return replace(
            self,
            formats=("ome-zarr",),
            mpp=None,
            roi=None,
            max_memory=None,
            shard=None,
            scheduler=None,
        )


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``i/N``: share i of N, counted from 1 to N or from 0 to N - 1; return i modulo N, and N.

    Raises
    ------
    InvalidOption
        Something else.
    """
    number, slash, count = text.partition("/")
    if (
        not slash
        or not number.isdecimal()
        or not count.isdecimal()
        or not int(count)
        or int(number) > int(count)
    ):
        raise InvalidOption(
            f"--shard must be i/N, such as 2/8 for the second of eight shares, got {text!r}"
        )
    return int(number) % int(count), int(count)
