"""Settings of ``histosynth evaluate``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption

METRICS = ("dice", "aji", "aji_plus", "pq", "dq", "sq", "f1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of evaluation; one field per command-line option."""

    minimum: tuple[tuple[str, float], ...] = ()
    """Gates: pairs of metric and the mean that must be reached."""
    bootstrap: int = 1000
    """Resamplings of the images for the 95 % interval."""
    seed: int = 0
    """Seed of the resampling."""

    def __post_init__(self) -> None:
        for name, _ in self.minimum:
            if name not in METRICS:
                raise InvalidOption(f"--min takes one of {', '.join(METRICS)}, got {name!r}")
        if self.bootstrap < 0:
            raise InvalidOption(f"--bootstrap must be 0 or larger, got {self.bootstrap}")
