"""What all commands share: how a command runs, and the fingerprint of what it was asked to make."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from histocli.base.errors import InvalidOption
from histocli.base.inputs import MPP_RANGE


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a command runs; nothing here changes what it makes."""

    device: str = "auto"
    """Where tensors live: auto, cpu, cuda, cuda:<i> or mps."""
    precision: str = "auto"
    """Number format of the networks: auto, fp32 or bf16."""
    workers: int = 0
    """Worker processes or threads; 0 is one per available processor."""
    resume: bool = False
    """Continue a partial output."""
    overwrite: bool = False
    """Replace an output of ours that was made with other settings."""
    on_error: str = "stop"
    """What to do when one item of several fails: stop or continue."""
    dry_run: bool = False
    """Check inputs and say what would be done, without doing it."""

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "continue"):
            raise InvalidOption(f"--on-error must be stop or continue, got {self.on_error!r}")
        if self.workers < 0:
            raise InvalidOption(f"--workers must be auto or at least 1, got {self.workers}")
        if self.resume and self.overwrite:
            raise InvalidOption(
                "--resume continues an output and --overwrite replaces it; give one of them"
            )


def check_mpp(mpp: float | None) -> None:
    """Raise ``InvalidOption`` unless ``mpp`` is None or a pixel size that a microscope can have."""
    low, high = MPP_RANGE
    if mpp is not None and not low <= mpp <= high:
        raise InvalidOption(
            f"--mpp must lie between {low} and {high} micrometres per pixel, got {mpp}; a 40x scan has about 0.25"
        )


def check_seed(seed: int) -> None:
    """Raise ``InvalidOption`` for a negative seed."""
    if seed < 0:
        raise InvalidOption(f"--seed must be 0 or larger, got {seed}")


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values


def config_hash(config: Any, **inputs: Any) -> str:
    """Fingerprint a command's settings and inputs; equal hashes mean that the output would be the
    same.

    Parameters
    ----------
    config : dataclass
        The command's settings. ``Execution`` is not part of it.
    **inputs
        What else decides the output, such as content hashes of the references; JSON values.
    """
    text = json.dumps({"config": as_dict(config), "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
