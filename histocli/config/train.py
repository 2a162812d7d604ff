"""Settings of ``histosynth train``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_seed

SIZES = ("S", "M", "L")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training a segmenter; one field per command-line option."""

    size: str = "S"
    """Size of the segmenter: S (laptop), M (workstation) or L (GPU)."""
    steps: int = 3000
    """Optimisation steps; a time budget may lower or raise it."""
    batch: int = 8
    """Crops in a step; at equal time, more and smaller steps learn more."""
    crop_px: int = 128
    """Side of a training crop, in pixels."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    validation: float = 0.05
    """Share of the synthetic patches that is held out to watch the training."""
    time_budget_s: float | None = None
    """Seconds within which the command ends with its model written; plans the number of steps."""
    seed: int = 0
    """Seed of initial weights, crops and augmentation."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.size not in SIZES:
            raise InvalidOption(f"--size must be one of {', '.join(SIZES)}, got {self.size!r}")
        for name, value in (("--steps", self.steps), ("--batch", self.batch)):
            if value < 1:
                raise InvalidOption(f"{name} must be at least 1, got {value}")
        if self.crop_px < 32 or self.crop_px % 16:
            raise InvalidOption(f"--crop-px must be a multiple of 16 and at least 32, got {self.crop_px}")
        if not 0 < self.learning_rate < 1:
            raise InvalidOption(f"--learning-rate must lie between 0 and 1, got {self.learning_rate}")
        if not 0 <= self.validation < 1:
            raise InvalidOption(f"--validation must lie in [0, 1), got {self.validation}")
        if self.time_budget_s is not None and not 0 < self.time_budget_s < float("inf"):
            raise InvalidOption(f"--time-budget must be positive, got {self.time_budget_s} s")
