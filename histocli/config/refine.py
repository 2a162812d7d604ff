"""Settings of ``histosynth refine``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_mpp, check_seed

EDITS = ("nuclei", "patch")
OBJECTIVES = ("fooling", "matching")


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Settings of refinement; one field per command-line option."""

    steps: int = 1200
    """Optimisation steps of the refiner and its critics; a time budget may lower or raise them."""
    batch: int = 8
    """Crops of each kind in a step."""
    identity: float = 3.0
    """Price of changing the tone of nuclei, against being taken for real; texture is free."""
    style: float = 0.2
    """Weight of looking like the reference, against being taken for real."""
    edits: str = "nuclei"
    """Where the refiner may change a patch: ``nuclei`` and a narrow ring, or the whole
    ``patch``."""
    objective: str = "matching"
    """What the refiner is after: ``fooling`` the critic, or ``matching`` what the critic sees in
    the reference, which costs the segmenter less."""
    proof: float = 0.9
    """Held-out AUC of real against initial patches that the critic must reach before the refiner
    moves; 0 asks for none."""
    restyle: bool = False
    """Give each patch the stains and the style of another reference than its own."""
    weights: bool = True
    """Weigh patches by how likely they are among real ones."""
    model: str | None = None
    """Refined store whose refiner is applied; nothing is trained then."""
    reference_mpp: float | None = None
    """Pixel size of the references, in micrometres per pixel, where they do not record it."""
    time_budget_s: float | None = None
    """Seconds within which the command ends with its store written; plans the number of steps."""
    seed: int = 0
    """Seed of initial weights, crops and noise."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.reference_mpp is not None:
            check_mpp(self.reference_mpp)
        for name, count in (("--steps", self.steps), ("--batch", self.batch)):
            if count < 1:
                raise InvalidOption(f"{name} must be at least 1, got {count}")
        if self.batch < 2:
            raise InvalidOption(
                "--batch must be at least 2: the style critic compares crops of two images"
            )
        for name, value, allowed in (
            ("--edits", self.edits, EDITS),
            ("--objective", self.objective, OBJECTIVES),
        ):
            if value not in allowed:
                raise InvalidOption(f"{name} must be one of {', '.join(allowed)}, got {value}")
        if not 0 <= self.proof <= 1:
            raise InvalidOption(f"--proof is an AUC and must lie between 0 and 1, got {self.proof}")
        for name, number in (("--identity", self.identity), ("--style", self.style)):
            if not 0 <= number < float("inf"):
                raise InvalidOption(f"{name} must not be negative, got {number}")
        if self.time_budget_s is not None and not 0 < self.time_budget_s < float("inf"):
            raise InvalidOption(f"--time-budget must be positive, got {self.time_budget_s} s")
