"""Settings and checks that several commands share, and the fingerprint of a command's settings."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from histocli.base.errors import InvalidOption
from histocli.base.units import MPP_RANGE, sane_mpp
from histocli.config.options import ESSENTIAL, RUN, option, parse_duration, parse_workers

# help texts of options that several commands have
SEED = "Seed of everything that is drawn."
MPP = "Micrometres per pixel of the inputs; overrides what they record."
REFERENCE_MPP = "Micrometres per pixel of the references; overrides what they record."
SHIPPABLE = "Whether the licence of the references lets trained weights be given away."


OF_TRAININGS = ("tensorboard",)
"""Fields of :class:`Execution` that only commands which train have options for."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Options of how a command runs; they are no part of the fingerprint of its output."""

    device: str = option(
        "auto", "Where the networks run.", metavar="auto|cpu|cuda[:i]|mps", panel=RUN
    )
    precision: str = option(
        "auto", "Number format of the networks.", metavar="auto|fp32|bf16", panel=RUN
    )
    # number of processes or threads; 0 stands for auto
    workers: int = option(
        0,
        "Parallel workers; auto is one a processor.",
        metavar="auto|N",
        panel=RUN,
        parse=parse_workers,
        written="auto",
    )
    # None leaves it to ``goes_on``
    resume: bool | None = option(
        None,
        "Go on with an unfinished output of the same settings, as is done by default, or begin it "
        "anew.",
        flag="--resume/--no-resume",
        panel=RUN,
    )
    overwrite: bool = option(
        False, "Replace an output of histosynth that was made with other settings.", panel=RUN
    )
    on_error: str = option(
        "stop",
        "Whether one bad input ends the batch (continue: exit 5).",
        metavar="stop|continue",
        panel=RUN,
    )
    dry_run: bool = option(False, "Check the inputs and say what would be made.", panel=RUN)
    # only commands that train offer it
    tensorboard: bool = option(
        False,
        "Also log for TensorBoard, in <output>.log/tensorboard; needs the extra tensorboard.",
        panel=RUN,
    )

    @property
    def goes_on(self) -> bool:
        """Whether the command goes on with an unfinished output of the same settings."""
        return self.resume is not False and not self.overwrite

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "continue"):
            raise InvalidOption(f"--on-error must be stop or continue, got {self.on_error!r}")
        if self.workers < 0:
            raise InvalidOption(f"--workers must be auto or at least 1, got {self.workers}")
        if self.resume and self.overwrite:
            raise InvalidOption(
                "--resume continues an output and --overwrite replaces it; give one of them"
            )


def time_budget() -> float | None:
    """Declare ``--time-budget``: seconds within which a training writes its output, or None."""
    return option(
        None,
        "Time for the whole command, such as 10m, after which its output is written; a command "
        "that goes on with an unfinished output has it anew.",
        flag="--time-budget",
        metavar="TIME",
        panel=ESSENTIAL,
        parse=parse_duration,
    )


def check_mpp(mpp: float | None) -> None:
    """Raise ``InvalidOption`` unless ``mpp`` is None or lies in ``MPP_RANGE``."""
    low, high = MPP_RANGE
    if mpp is not None and sane_mpp(mpp) is None:
        raise InvalidOption(
            f"--mpp must lie between {low} and {high} micrometres per pixel, got "
            f"{mpp}; a 40x scan has about 0.25"
        )


def check_seed(seed: int) -> None:
    """Raise ``InvalidOption`` for a negative seed."""
    if seed < 0:
        raise InvalidOption(f"--seed must be 0 or larger, got {seed}")


def check_time_budget(seconds: float | None) -> None:
    """Raise ``InvalidOption`` unless a time budget is None or a positive number of seconds."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InvalidOption(f"--time-budget must be positive, got {seconds} s")


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def config_hash(config: Any, **inputs: Any) -> str:
    """Return the fingerprint of a command's settings and inputs, 16 hexadecimal digits.

    Equal fingerprints mean that the command would make the same output. ``config`` is the command's
    dataclass of settings, not ``Execution``; ``inputs`` are JSON values of everything else that
    decides the output, such as content hashes of inputs.
    """
    text = json.dumps({"config": as_dict(config), "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
