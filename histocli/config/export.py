"""Settings of ``histosynth export``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.base.formats import FORMATS, check_formats, format_names
from histocli.config.common import MPP, SEED, check_seed
from histocli.config.options import ESSENTIAL, FILES, RUN, option, parse_names, parse_region


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of exporting label stores; each field is a command-line option."""

    formats: tuple[str, ...] = option(
        ("geojson",),
        f"What to write, comma-separated: {', '.join(format_names('export'))}.",
        flag="--format",
        metavar="LIST",
        panel=ESSENTIAL,
        parse=parse_names,
    )
    slide: str | None = option(
        None,
        "The slide, or a folder with it; for overlay and qc.",
        metavar="SLIDE|FOLDER",
        panel=FILES,
    )
    # in pixels of the full resolution (level 0): rows y0 to y1 - 1, columns x0 to x1 - 1
    region: tuple[int, int, int, int] | None = option(
        None,
        "Part of the slide, in pixels of level 0; for tiff and overlay.",
        metavar="y0,x0,y1,x1",
        panel=FILES,
        parse=parse_region,
    )
    mpp: float | None = option(None, MPP, metavar="UM", panel=FILES)
    seed: int = option(0, SEED, metavar="N", panel=RUN)  # decides which crops a qc picture shows

    def __post_init__(self) -> None:
        check_formats(self.formats, "export")
        of_region = [name for name, form in FORMATS.items() if form.takes_region]
        for name in self.formats:
            if self.region is not None and name not in of_region:
                fit = " and ".join(of_region)
                raise InvalidOption(f"--region goes with --format {fit}, not with {name}")
        if self.region is not None:
            y0, x0, y1, x1 = self.region
            if not (0 <= y0 < y1 and 0 <= x0 < x1):
                raise InvalidOption(
                    f"--region must be y0,x0,y1,x1 with y0 < y1 and x0 < x1, got {self.region}"
                )
        check_seed(self.seed)
