"""Settings of ``histosynth evaluate``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_mpp, check_seed
from histocli.metrics.table import ERRORS, QUALITIES

BORDERS = ("count", "ignore")
RESAMPLED = ("image", "group")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of evaluation; one field per command-line option."""

    minimum: tuple[tuple[str, float], ...] = ()
    """Gates: pairs of metric and the mean that must be reached."""
    maximum: tuple[tuple[str, float], ...] = ()
    """Gates: pairs of metric and the mean that must not be exceeded."""
    mpp: float | None = None
    """Micrometres per pixel of all images; None takes what each records."""
    radius_um: float = 3.0
    """A predicted centroid this near to a true one detects it."""
    tolerance_um: float = 0.5
    """A boundary pixel this near to one of the other side is right."""
    boundaries: bool = True
    """Whether boundaries are compared; they cost more than everything else."""
    border: str = "count"
    """What becomes of true nuclei that touch the border of an image: count, or ignore."""
    bootstrap: int = 1000
    """Resamplings for the 95 % intervals."""
    resample: str = "image"
    """What is drawn anew: images, or whole groups such as patients."""
    realism_patches: int = 600
    """Patches of each kind that realism is judged on, at most."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        for flag, gates, names in (
            ("--min", self.minimum, QUALITIES),
            ("--max", self.maximum, ERRORS),
        ):
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
        for flag, word, known in (
            ("--border", self.border, BORDERS),
            ("--resample", self.resample, RESAMPLED),
        ):
            if word not in known:
                raise InvalidOption(f"{flag} must be {' or '.join(known)}, got {word!r}")
