"""Settings of ``histosynth train``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_mpp, check_seed

SIZES = ("S", "M", "L")
TARGETS = ("distance", "contact")
HARD = ("none", "appearance", "refiner")
LEARNING_RATE = 3e-3


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training a segmenter; one field per command-line option."""

    size: str = "S"
    """Size of the segmenter: S (laptop), M (workstation) or L (GPU)."""
    targets: str = "distance"
    """What the segmenter predicts beside the nucleus mask: ``distance`` to the border, or also
    ``contact`` of nuclei."""
    hard: str = "none"
    """Hard examples made on the fly: ``none``, by moving ``appearance``, or by the ``refiner`` of a
    refined store."""
    fresh: bool = False
    """Draw new patches while training goes on, in the place of the store's."""
    fresh_per_step: float = 0.5
    """New patches that each step brings, with ``fresh``."""
    compile: bool = False
    """Compile the network first: takes a minute and more, and each step is faster."""
    steps: int = 3000
    """Optimisation steps; a time budget may lower or raise it."""
    batch: int = 8
    """Crops in a step; at equal time, more and smaller steps learn more."""
    crop_px: int = 128
    """Side of a training crop, in pixels."""
    learning_rate: float | None = None
    """Peak of the one-cycle schedule; by default 0.003, and a third of it for weights that have
    learnt already."""
    init: str | None = None
    """Model whose weights the training starts from."""
    rounds: int = 2
    """Rounds of self-training on unlabelled references, where some are given."""
    teacher: str | None = None
    """Labels of the references, of any kind, that teach the first round of self-training in place
    of the network's own."""
    reference_mpp: float | None = None
    """Pixel size of the references, in micrometres per pixel, where they do not record it."""
    shippable: bool = True
    """Whether the licence of the references lets trained weights be given away."""
    validation: float = 0.05
    """Share of the synthetic patches that is held out to watch the training."""
    contrast_quantile: float = 0.25
    """Share of the references that are flatter than what ``segment`` raises flat images to; 0
    leaves images as they are, 0.5 suits a model that will see tissue of other laboratories."""
    time_budget_s: float | None = None
    """Seconds within which the command ends with its model written; plans the number of steps."""
    seed: int = 0
    """Seed of initial weights, crops and augmentation."""

    @property
    def peak_rate(self) -> float:
        """Learning rate at the peak of the first schedule."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATE if self.init is None else LEARNING_RATE / 3

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.size not in SIZES:
            raise InvalidOption(f"--size must be one of {', '.join(SIZES)}, got {self.size!r}")
        if self.targets not in TARGETS:
            raise InvalidOption(
                f"--targets must be one of {', '.join(TARGETS)}, got {self.targets!r}"
            )
        if self.hard not in HARD:
            raise InvalidOption(f"--hard must be one of {', '.join(HARD)}, got {self.hard!r}")
        if not 0 < self.fresh_per_step <= 64:
            raise InvalidOption(
                f"--fresh-per-step must lie between 0 and 64, got {self.fresh_per_step}"
            )
        for name, value in (
            ("--steps", self.steps),
            ("--batch", self.batch),
            ("--rounds", self.rounds),
        ):
            if value < 1:
                hint = (
                    "; leave --refs out to train without self-training"
                    if name == "--rounds"
                    else ""
                )
                raise InvalidOption(f"{name} must be at least 1, got {value}{hint}")
        if self.crop_px < 32 or self.crop_px % 16:
            raise InvalidOption(
                f"--crop-px must be a multiple of 16 and at least 32, got {self.crop_px}"
            )
        if self.reference_mpp is not None:
            check_mpp(self.reference_mpp)
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise InvalidOption(
                f"--learning-rate must lie between 0 and 1, got {self.learning_rate}"
            )
        for name, share in (
            ("--validation", self.validation),
            ("--contrast-quantile", self.contrast_quantile),
        ):
            if not 0 <= share < 1:
                raise InvalidOption(f"{name} must lie in [0, 1), got {share}")
        if self.time_budget_s is not None and not 0 < self.time_budget_s < float("inf"):
            raise InvalidOption(f"--time-budget must be positive, got {self.time_budget_s} s")
