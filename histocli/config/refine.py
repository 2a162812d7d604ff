"""Settings of ``histosynth refine``.

The refiner is a network that repaints synthetic patches; the critic is a network that tells them
from patches of the references.
"""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import (
    REFERENCE_MPP,
    SEED,
    check_mpp,
    check_seed,
    check_time_budget,
    time_budget,
)
from histocli.config.options import FILES, RESEARCH, RUN, option

EDITS = ("nuclei", "patch")
OBJECTIVES = ("fooling", "matching")


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Settings of refinement; each field is a command-line option."""

    steps: int = option(
        1200, "Optimisation steps.", metavar="N"
    )  # a time budget replaces this number
    batch: int = option(8, "Crops of each kind in a step.", metavar="N")
    # weights of two losses; the loss against the critic has weight 1
    identity: float = option(
        3.0,
        "Price of changing the tone of nuclei; texture is free.",
        metavar="WEIGHT",
        panel=RESEARCH,
    )
    style: float = option(
        0.2, "Weight of looking like the reference.", metavar="WEIGHT", panel=RESEARCH
    )
    edits: str = option(
        "nuclei",
        "Change nuclei and a narrow ring, or the whole patch.",
        metavar="nuclei|patch",
        panel=RESEARCH,
    )
    # a segmenter loses less accuracy on patches refined by matching (docs/research/refinement.md)
    objective: str = option(
        "matching",
        "Fool the critic, or match what it sees in the reference.",
        metavar="fooling|matching",
        panel=RESEARCH,
    )
    # area under the ROC curve (AUC) of the critic, real against unrefined patches
    proof: float = option(
        0.9,
        "Held-out AUC that the critic must reach before the refiner moves; 0 asks for none.",
        metavar="AUC",
        panel=RESEARCH,
    )
    restyle: bool = option(
        False,
        "Give each patch the stains and style of another reference than its own.",
        panel=RESEARCH,
    )
    weights: bool = option(
        True, "Weigh patches by how likely they are among real ones.", flag="--weights/--no-weights"
    )
    model: str | None = option(
        None,
        "Apply the refiner of this refined store; train nothing.",
        metavar="STORE",
        panel=FILES,
    )
    reference_mpp: float | None = option(None, REFERENCE_MPP, metavar="UM", panel=FILES)
    time_budget_s: float | None = time_budget()
    seed: int = option(0, SEED, metavar="N", panel=RUN)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_mpp(self.reference_mpp)
        for name, count in (("--steps", self.steps), ("--batch", self.batch)):
            if count < 1:
                raise InvalidOption(f"{name} must be at least 1, got {count}")
        if self.batch < 2:
            raise InvalidOption(
                "--batch must be at least 2: the style critic compares crops of two images"
            )
        words = ("--edits", self.edits, EDITS), ("--objective", self.objective, OBJECTIVES)
        for name, value, allowed in words:
            if value not in allowed:
                raise InvalidOption(f"{name} must be one of {', '.join(allowed)}, got {value}")
        if not 0 <= self.proof <= 1:
            raise InvalidOption(f"--proof is an AUC and must lie between 0 and 1, got {self.proof}")
        for name, number in (("--identity", self.identity), ("--style", self.style)):
            if not 0 <= number < float("inf"):
                raise InvalidOption(f"{name} must not be negative, got {number}")
        check_time_budget(self.time_budget_s)
