"""Settings of how overlays are drawn, which ``segment`` and ``export`` share."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import config_hash
from histocli.config.options import FILES, option

THICKNESS = "Thickness of these outlines, in pixels of the picture; half a micrometre by default."
COLOURS = ("one", "id", "area", "probability")
DRAWN = ("overlay",)
"""Formats that these settings change."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings of overlays; each field is a command-line option."""

    colour: str = option(
        "one",
        "Outlines of overlays: of one colour, or coloured by id, area or probability.",
        metavar="|".join(COLOURS),
        panel=FILES,
    )
    thickness: int | None = option(None, THICKNESS, metavar="PX", panel=FILES)

    def __post_init__(self) -> None:
        if self.colour == "verdict":
            raise InvalidOption(
                "--colour verdict needs a truth; 'histosynth evaluate PREDICTION TRUTH "
                "--images IMAGES --overlays FOLDER' draws it"
            )
        if self.colour not in COLOURS:
            raise InvalidOption(f"--colour must be {', '.join(COLOURS)}, got {self.colour!r}")
        check_thickness(self.thickness)

    def fingerprint(self, form: str, labels: str) -> str:
        """Return the fingerprint of a file of a format, given that of its labels."""
        if form not in DRAWN or self == OUTLINES:
            return labels
        return config_hash(self, labels=labels)


def check_thickness(thickness: int | None) -> None:
    """Raise ``InvalidOption`` unless the thickness of outlines is None or sensible."""
    if thickness is not None and not 1 <= thickness <= 50:
        raise InvalidOption(f"--thickness must lie between 1 and 50, got {thickness}")


OUTLINES = Drawing()
"""Outlines of one colour."""
