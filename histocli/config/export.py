"""Settings of ``histosynth export``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.base.formats import FORMATS, check_formats


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of exporting label stores; one field per command-line option."""

    formats: tuple[str, ...] = ("geojson",)
    """What to write for each store: names of formats."""
    slide: str | None = None
    """The slide itself, or a folder that holds it; for overlay and qc, which show it."""
    region: tuple[int, int, int, int] | None = None
    """Rows and columns of level 0 to write: y0, x0, y1, x1, half open; for tiff and overlay."""
    mpp: float | None = None
    """Pixel size of the slide, in micrometres per pixel, where it records none."""
    seed: int = 0
    """Seed of the choice of crops in qc pictures."""

    def __post_init__(self) -> None:
        check_formats(self.formats, "export")
        of_region = [name for name, form in FORMATS.items() if form.takes_region]
        for name in self.formats:
            if self.region is not None and name not in of_region:
                raise InvalidOption(
                    f"--region goes with --format {' and '.join(of_region)}, not with {name}"
                )
        if self.region is not None:
            y0, x0, y1, x1 = self.region
            if not (0 <= y0 < y1 and 0 <= x0 < x1):
                raise InvalidOption(
                    f"--region must be y0,x0,y1,x1 with y0 < y1 and x0 < x1, got {self.region}"
                )
        if self.seed < 0:
            raise InvalidOption(f"--seed must be 0 or larger, got {self.seed}")


def parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    """Read ``y0,x0,y1,x1``.

    Raises
    ------
    InvalidOption
        Something else.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise InvalidOption(f"--region must be y0,x0,y1,x1 in pixels of level 0, got {text!r}")
    y0, x0, y1, x1 = map(int, parts)
    return y0, x0, y1, x1
