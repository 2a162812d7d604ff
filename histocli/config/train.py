"""Settings of ``histosynth train``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import (
    REFERENCE_MPP,
    SEED,
    SHIPPABLE,
    check_mpp,
    check_seed,
    check_time_budget,
    time_budget,
)
from histocli.config.options import ESSENTIAL, FILES, RESEARCH, RUN, option

SIZES = ("T", "S", "M", "L")
TARGETS = ("distance", "contact")
HARD = ("none", "appearance", "refiner")
LEARNING_RATE = 3e-3


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training a segmenter; each field is a command-line option."""

    size: str = option(
        "S",
        "Network: T on frozen public features, which finds most in other laboratories; S, M and L "
        "learn all of theirs, and S is the fastest.",
        metavar="|".join(SIZES),
        panel=ESSENTIAL,
    )
    targets: str = option(
        "distance",
        "What is predicted beside the nucleus mask: distance to the border, or also where nuclei "
        "meet.",
        metavar="|".join(TARGETS),
        panel=RESEARCH,
    )
    hard: str = option(
        "none",
        "Hard examples made while training: by moving appearance, or by the refiner of a refined "
        "store.",
        metavar="|".join(HARD),
        panel=RESEARCH,
    )
    fresh: bool = option(
        False,
        "Draw new patches while training goes on, in the place of those of the store.",
        panel=RESEARCH,
    )
    fresh_per_step: float = option(
        0.5, "New patches that each step brings, with --fresh.", metavar="N", panel=RESEARCH
    )
    compile: bool = option(
        False,
        "Compile the network first: a minute or more, then faster steps; for long trainings.",
        panel=RUN,
    )
    steps: int = option(
        3000, "Optimisation steps.", metavar="N"
    )  # a time budget replaces this number
    # in equal time, 8 crops a step gave better models than 16 (docs/research/fuller_recipe.md)
    batch: int = option(8, "Crops in a step.", metavar="N")
    crop_px: int = option(128, "Side of a training crop, in pixels.", metavar="PX")
    learning_rate: float | None = option(
        None, "Peak learning rate; 0.003, or 0.001 with --init, by default.", metavar="RATE"
    )
    init: str | None = option(
        None,
        "Start from the weights of this model (fine-tuning): a file, box or box:NAME.",
        metavar="MODEL",
    )
    rounds: int = option(1, "Rounds of self-training, with --refs.", metavar="N")
    # without it, the network itself labels the references for the first round
    teacher: str | None = option(
        None,
        "What teaches, with --refs: a model (a file, box or box:NAME), or several with commas "
        "between, whose mean maps of the references are learnt from the first step on; or labels "
        "of the references for the first round, matched by name.",
        metavar="MODEL[,MODEL]|LABELS",
    )
    reference_mpp: float | None = option(None, REFERENCE_MPP, metavar="UM", panel=FILES)
    shippable: bool = option(True, SHIPPABLE, flag="--shippable/--not-shippable", panel=FILES)
    validation: float = option(
        0.05, "Share of the patches held out to watch the training.", metavar="SHARE"
    )
    contrast_quantile: float = option(
        0.4,
        "Share of the references whose stain is paler, and as many whose stain is stronger, than "
        "what 'segment' brings foreign slides to; 0 leaves slides as they are.",
        metavar="SHARE",
        panel=RESEARCH,
    )
    time_budget_s: float | None = time_budget()
    seed: int = option(0, SEED, metavar="N", panel=RUN)

    @property
    def peak_rate(self) -> float:
        """Highest learning rate of the first training; a third of the default with ``init``."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATE if self.init is None else LEARNING_RATE / 3

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, word, known in (
            ("--size", self.size, SIZES),
            ("--targets", self.targets, TARGETS),
            ("--hard", self.hard, HARD),
        ):
            if word not in known:
                raise InvalidOption(f"{name} must be one of {', '.join(known)}, got {word!r}")
        if not 0 < (fresh := self.fresh_per_step) <= 64:
            raise InvalidOption(f"--fresh-per-step must lie between 0 and 64, got {fresh}")
        counts = ("--steps", self.steps), ("--batch", self.batch), ("--rounds", self.rounds)
        for name, value in counts:
            if value < 1:
                hint = "; leave --refs out to train without self-training"
                hint = hint if name == "--rounds" else ""
                raise InvalidOption(f"{name} must be at least 1, got {value}{hint}")
        if (side := self.crop_px) < 32 or side % 16:
            raise InvalidOption(f"--crop-px must be a multiple of 16 and at least 32, got {side}")
        check_mpp(self.reference_mpp)
        if (rate := self.learning_rate) is not None and not 0 < rate < 1:
            raise InvalidOption(f"--learning-rate must lie between 0 and 1, got {rate}")
        if not 0 <= self.validation < 1:
            raise InvalidOption(f"--validation must lie in [0, 1), got {self.validation}")
        if not 0 <= (share := self.contrast_quantile) <= 0.5:
            raise InvalidOption(f"--contrast-quantile must lie in [0, 0.5], got {share}")
        check_time_budget(self.time_budget_s)
