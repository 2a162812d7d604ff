"""Settings of ``histosynth evaluate``.

A gate is a bound of a metric, such as ``--min pq=0.55``: the command fails when the mean breaks it.
"""

from dataclasses import dataclass
from pathlib import Path

from histocli.base.errors import InvalidOption
from histocli.config.common import MPP, SEED, check_mpp, check_seed
from histocli.config.drawing import THICKNESS, check_thickness
from histocli.config.options import ESSENTIAL, FILES, RUN, option, parse_gates
from histocli.metrics.table import ERRORS, QUALITIES

BORDERS = ("count", "ignore")
RESAMPLED = ("image", "group")
OVERLAY_COLOURS = ("verdict", "one", "id", "area", "probability")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings that decide the scores; each field is a command-line option."""

    minimum: tuple[tuple[str, float], ...] = option(
        (),
        f"Exit 7 when a mean is lower: {', '.join(QUALITIES)}. Repeatable.",
        flag="--min",
        metavar="METRIC=VALUE",
        panel=ESSENTIAL,
        parse=parse_gates,
        repeatable=True,
    )
    maximum: tuple[tuple[str, float], ...] = option(
        (),
        f"Exit 7 when a mean is higher: {', '.join(ERRORS)}. Repeatable.",
        flag="--max",
        metavar="METRIC=VALUE",
        panel=ESSENTIAL,
        parse=parse_gates,
        repeatable=True,
    )
    mpp: float | None = option(None, MPP, metavar="UM", panel=FILES)
    radius_um: float = option(3.0, "A centroid this near to a true one detects it, in um.")
    tolerance_um: float = option(0.5, "A boundary pixel this near to a true one is right, in um.")
    # comparing boundaries takes most of the time of an evaluation
    boundaries: bool = option(
        True,
        "Compare boundaries: boundary F1 and Hausdorff distance.",
        flag="--boundaries/--no-boundaries",
    )
    border: str = option(
        "count", "What true nuclei at an image's border do.", metavar="|".join(BORDERS)
    )
    bootstrap: int = option(1000, "Resamplings of the images for the 95 % interval; 0: none.")
    # the unit that the bootstrap draws; a group may be a patient
    resample: str = option("image", "What is drawn anew for it.", metavar="|".join(RESAMPLED))
    realism_patches: int = option(600, "Patches of each kind that are judged.")
    seed: int = option(0, SEED, metavar="N", panel=RUN)

    def __post_init__(self) -> None:
        bounds = ("--min", self.minimum, QUALITIES), ("--max", self.maximum, ERRORS)
        for flag, gates, names in bounds:
            for name, _ in gates:
                if name not in names:
                    raise InvalidOption(f"{flag} takes one of {', '.join(names)}, got {name!r}")
        if self.bootstrap < 0:
            raise InvalidOption(f"--bootstrap must be 0 or larger, got {self.bootstrap}")
        if self.realism_patches < 4:
            raise InvalidOption(f"--realism-patches must be at least 4, got {self.realism_patches}")
        check_mpp(self.mpp)
        check_seed(self.seed)
        for flag, value in (("--radius-um", self.radius_um), ("--tolerance-um", self.tolerance_um)):
            if not 0 < value <= 100:
                raise InvalidOption(
                    f"{flag} must lie above 0 and be at most 100 micrometres, got {value}"
                )
        words = ("--border", self.border, BORDERS), ("--resample", self.resample, RESAMPLED)
        for flag, word, known in words:
            if word not in known:
                raise InvalidOption(f"{flag} must be {' or '.join(known)}, got {word!r}")


@dataclass(frozen=True, kw_only=True)
class EvaluateFiles:
    """Files that ``evaluate`` reads besides the predictions, and the report that it writes."""

    truth: str | None = option(
        None,
        "Truth of several predictions that are compared.",
        metavar="TRUTH",
        panel=ESSENTIAL,
        before="minimum",
    )
    all_metrics: bool = option(
        False,
        "Print every metric, not only the headline ones.",
        flag="--all",
        panel=FILES,
        before="bootstrap",
    )
    ignore: str | None = option(
        None,
        "Masks by name; what is not 0 does not count.",
        metavar="MASKS",
        panel=FILES,
        before="bootstrap",
    )
    html: Path | None = option(
        None,
        "Report to write, one file.",
        metavar="FILE.html",
        panel=ESSENTIAL,
        before="realism_patches",
    )
    images: str | None = option(
        None,
        "Pictures by name, for the report and overlays.",
        metavar="IMAGES",
        panel=FILES,
        before="realism_patches",
    )
    overlays: Path | None = option(
        None,
        "Folder for a picture of each image, which shows what is matched, missed, false, merged "
        "and split.",
        metavar="FOLDER",
        panel=FILES,
        before="realism_patches",
    )
    colour: str = option(
        "verdict",
        "Outlines of these overlays: by verdict; or predicted nuclei of one colour, by id, area or "
        "probability.",
        metavar="|".join(OVERLAY_COLOURS),
        panel=FILES,
        before="realism_patches",
    )
    thickness: int | None = option(
        None, THICKNESS, metavar="PX", panel=FILES, before="realism_patches"
    )
    show: list[str] | None = option(
        None,
        "Patch store or model for the report. Repeatable.",
        metavar="PATH",
        panel=FILES,
        before="realism_patches",
    )
    realism: str | None = option(
        None,
        "Judge this patch store against --refs.",
        metavar="STORE",
        panel=ESSENTIAL,
        before="realism_patches",
    )
    refs: list[str] | None = option(
        None,
        "Reference images, with --realism. Repeatable.",
        metavar="REFS",
        panel=FILES,
        before="realism_patches",
    )

    def __post_init__(self) -> None:
        if self.colour not in OVERLAY_COLOURS:
            raise InvalidOption(
                f"--colour must be {', '.join(OVERLAY_COLOURS)}, got {self.colour!r}"
            )
        check_thickness(self.thickness)
