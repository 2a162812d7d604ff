"""Settings of ``histosynth segment``.

The network sees a slide tile by tile. Tiles overlap; the core of a tile is the part whose
predictions are kept.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from histocli.base.errors import InvalidOption
from histocli.base.formats import check_formats, format_names
from histocli.config.common import MPP, check_mpp
from histocli.config.options import ESSENTIAL, FILES, RUN, option, parse_gigabytes, parse_names

TISSUE = ("auto", "none")
ADAPT = ("stain", "none")
BACKENDS = ("torch", "openvino", "auto")
LEAST_MEMORY_GB = 0.5


class Quality(NamedTuple):
    """What is done for the quality of labels, unless the user chooses by other options."""

    backend: str
    """What runs the network."""
    views: int
    """Orientations of a tile whose maps are averaged."""


QUALITIES = {
    "fast": Quality("auto", 1),
    "standard": Quality("torch", 1),
    "best": Quality("torch", 4),
}


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Settings of segmentation; each field is a command-line option."""

    formats: tuple[str, ...] = option(
        ("ome-zarr",),
        f"What to write, comma-separated: {', '.join(format_names('segment'))}.",
        flag="--format",
        metavar="LIST",
        panel=ESSENTIAL,
        parse=parse_names,
    )
    mpp: float | None = option(None, MPP, metavar="UM", panel=FILES)
    # in pixels at the pixel size of the model
    tile_px: int = option(
        8192, "Largest side of a network tile's kept core, in pixels.", metavar="PX", panel=RUN
    )
    quality: str = option(
        "standard",
        "fast: one look at each tile by the fastest backend; standard: one look by PyTorch; best: "
        "the mean of four looks, which finds outlines better, at four times the cost.",
        metavar="|".join(QUALITIES),
        panel=ESSENTIAL,
    )
    # orientations are turns and mirror images of a tile; their predictions are averaged
    views: int | None = option(
        None,
        "Orientations in which the network sees each tile, 1 to 8; the cost grows as much.",
        metavar="N",
        written="by --quality",
    )
    tissue: str = option(
        "auto", "Look for nuclei on tissue only, or everywhere (none).", metavar="|".join(TISSUE)
    )
    adapt: str = option(
        "stain",
        "Bring slides of a foreign stain towards the stains that the model knows, or leave them "
        "(none).",
        metavar="|".join(ADAPT),
    )
    roi: str | None = option(
        None,
        "Regions to look at: GeoJSON in slide pixels, a mask image, or a folder with one for each "
        "slide.",
        metavar="FILE|FOLDER",
        panel=FILES,
    )
    backend: str | None = option(
        None,
        "What runs the network: torch; openvino, which needs the extra fast, often is faster on "
        "processors, and rounds otherwise; or auto, what a short test finds faster.",
        metavar="|".join(BACKENDS),
        written="by --quality",
        panel=RUN,
        before="precision",
    )
    # gigabytes; None sets no limit
    max_memory: float | None = option(
        None,
        "Memory that the process may take, such as 4GB or 4GiB.",
        metavar="SIZE",
        panel=RUN,
        parse=parse_gigabytes,
    )
    shard: str | None = option(
        None,
        "Take the i-th of N shares of the slides; by default what a Slurm array says, else all.",
        metavar="i/N",
        panel=RUN,
    )
    scheduler: str | None = option(
        None, "Dask scheduler whose workers do the work.", metavar="ADDRESS", panel=RUN
    )

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        check_formats(self.formats, "segment")
        if not 64 <= (px := self.tile_px) <= 8192 or px % 32:
            raise InvalidOption(f"--tile-px must be a multiple of 32 between 64 and 8192, got {px}")
        if self.quality not in QUALITIES:
            raise InvalidOption(f"--quality must be fast, standard or best, got {self.quality!r}")
        if self.views is not None and not 1 <= self.views <= 8:
            raise InvalidOption(f"--views must lie between 1 and 8, got {self.views}")
        if self.tissue not in TISSUE:
            raise InvalidOption(f"--tissue must be auto or none, got {self.tissue!r}")
        if self.adapt not in ADAPT:
            raise InvalidOption(f"--adapt must be stain or none, got {self.adapt!r}")
        if self.backend is not None and self.backend not in BACKENDS:
            raise InvalidOption(f"--backend must be torch, openvino or auto, got {self.backend!r}")
        if self.backend == "auto" and self.scheduler is not None:
            raise InvalidOption(
                "--backend auto measures this machine, not the workers of --scheduler; "
                "give torch or openvino"
            )
        if self.max_memory is not None and not self.max_memory >= LEAST_MEMORY_GB:
            least, given = LEAST_MEMORY_GB, self.max_memory
            raise InvalidOption(f"--max-memory must be at least {least} gigabytes, got {given:g}")
        if self.shard is not None:
            parse_shard(self.shard)

    @property
    def orientations(self) -> int:
        """Number of orientations in which each tile is seen."""
        return QUALITIES[self.quality].views if self.views is None else self.views

    @property
    def runner(self) -> str:
        """What runs the network: ``torch``, ``openvino`` or ``auto``."""
        if self.backend is not None:
            return self.backend
        # a cluster's workers are not measured
        return "torch" if self.scheduler is not None else QUALITIES[self.quality].backend

    def of_labels(self) -> "SegmentConfig":
        """Return a copy in which the settings that do not change the labels have their defaults."""
        return replace(
            self,
            formats=("ome-zarr",),
            mpp=None,
            roi=None,
            quality="standard",
            views=self.orientations,
            backend=None,
            max_memory=None,
            shard=None,
            scheduler=None,
        )


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``i/N``, share i of N shares; return i modulo N, and N.

    Users may count shares from 1 to N or from 0 to N - 1: N and 0 are the same share. Raises
    ``InvalidOption`` if the text is not of this form, N is 0, or i is larger than N.
    """
    number, _, count = text.partition("/")
    digits = number.isdecimal() and count.isdecimal()
    if not digits or not int(count) or int(number) > int(count):
        raise InvalidOption(
            f"--shard must be i/N, such as 2/8 for the second of eight shares, got {text!r}"
        )
    return int(number) % int(count), int(count)
