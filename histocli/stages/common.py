"""What all stages share: the shape of their results, time, and hashes of inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.memory import reuse_freed_memory
from histocli.base.system import available_cpus
from histocli.base.text import plain_json
from histocli.base.types import Json
from histocli.stores.inputs import InputImage
from histocli.stores.patches import PatchStore
from histocli.stores.slides import read_pixel_size

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

COARSE = 1.3  # a reference this much coarser than the patches makes blurred patches

Status: TypeAlias = Literal["done", "skipped", "planned", "failed"]
"""``skipped``: it was there already; ``planned``: a dry run."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a command reports about one output; every command adds fields of its own."""

    schema: ClassVar[str] = "histosynth/1"
    """Name and version of the JSON form, such as ``histosynth.pack/1``."""

    output: str
    """Path of what was made."""
    status: Status
    """How it went."""
    seconds: float
    """How long it took."""
    error: str | None = None
    """One line when the status is ``failed``."""

    def to_json(self) -> Json:
        """Return the JSON object of ``--json``: the schema first, then the fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values: Json = plain_json(
            {"schema": self.schema, **fields, "seconds": round(self.seconds, 3)}
        )
        return values


@dataclass(frozen=True)
class Source:
    """One reference file, as it will be read."""

    path: Path
    sha256: str
    mpp: float
    mpp_source: str


class Stopwatch:
    """Counts seconds from its making."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._start


class Clock:
    """Tells how far a training is, by steps or by seconds."""

    def __init__(
        self, steps: int, time_budget_s: float | None, reserve_s: float, watch: Stopwatch
    ) -> None:
        """Count ``steps``, or the seconds of a budget less what is reserved for the end, but at
        least half of it.
        """
        self.steps = steps
        self.budget_s = (
            None if time_budget_s is None else max(time_budget_s - reserve_s, 0.5 * time_budget_s)
        )
        self.watch = watch
        self.earlier_s = 0.0
        """Of the same training, before it was resumed."""
        self.begun_s: float | None = None

    @property
    def trained_s(self) -> float:
        """Seconds of training, resumed ones included; 0 before the first step."""
        return self.earlier_s + (
            self.watch.seconds - self.begun_s if self.begun_s is not None else 0
        )

    def progress(self, step: int) -> float:
        """Share of the training that is done."""
        if self.begun_s is None:
            self.begun_s = self.watch.seconds
        if self.budget_s is None:
            return step / self.steps
        available = max(self.budget_s - self.begun_s, 1.0)  # reading the patches has taken its part
        return max(self.trained_s / (available + self.earlier_s), 0.0)


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of all files of a store with their names.

    Parameters
    ----------
    path : Path
        A file, or a folder such as a Zarr image.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    InputNotFound
        There is nothing.
    InvalidInput
        It cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(path).as_posix().encode() + b"\0")
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()
    except FileNotFoundError:
        raise InputNotFound(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def identify_references(
    images: Sequence[InputImage],
    *,
    mpp: float,
    reference_mpp: float | None,
    tolerant: bool,
    command: str,
) -> tuple[list[Source], list[str]]:
    """Hash references and find their pixel sizes, before any work is done.

    Parameters
    ----------
    images : sequence of InputImage
    mpp : float
        Of the patches; coarser references are warned of.
    reference_mpp : float, optional
        Overrides what the references record.
    tolerant : bool
        Leave out what cannot be read.
    command : str
        For messages.

    Returns
    -------
    sources : list of Source
    failed : list of str
        Paths that were left out.

    Raises
    ------
    InputNotFound, InvalidInput
        A reference cannot be read, or none can.
    """
    sources, failed = [], []
    for image in images:
        raise_if_stopped(f"{command}: stopped before anything was made; run it again")
        try:
            size, mpp_source = read_pixel_size(image.path, mpp=image.mpp or reference_mpp)
            sources.append(Source(image.path, content_hash(image.path), size, mpp_source))
        except HistosynthError as error:
            if not tolerant:
                raise
            logger.warning("%s", error)
            failed.append(str(image.path))
            continue
        if size > COARSE * mpp:
            logger.warning(
                "%s: has %.3g um/px, coarser than the patches' %.3g; they will be blurred. Set --mpp %.3g",
                image.path,
                size,
                mpp,
                size,
            )
    if not sources:
        raise InputNotFound(
            f"none of the {len(images)} references can be read; see the messages above"
        )
    assumed = sum(source.mpp_source == "assumed" for source in sources)
    if assumed:
        logger.warning(
            "%d of %d references record no pixel size; %.3g um/px is assumed. Give --reference-mpp where that is wrong",
            assumed,
            len(sources),
            next(source.mpp for source in sources if source.mpp_source == "assumed"),
        )
    return sources, failed


def patch_glass_levels(
    store: PatchStore, patches: range, images: npt.NDArray[np.uint8]
) -> list[float]:
    """Return the level of empty glass for each of some patches.

    A synthetic patch has the level of its reference, which was measured on far more pixels; where
    none is recorded, the patch itself is measured.

    Parameters
    ----------
    store : PatchStore
    patches : range
    images : ndarray of uint8, shape (len(patches), H, W, 3)
        These patches.
    """
    # late: it brings torch, which evaluate and info do without
    from histocli.optics.density import white_level

    recorded = [
        record.statistics.get("appearance", {}).get("white_level") for record in store.references
    ]
    levels = [recorded[store.reference[patch]] for patch in patches]
    return [
        white_level(image) if level is None else float(level)
        for level, image in zip(levels, images, strict=True)
    ]


def prepare_process() -> None:
    """Prepare the process for networks: memory is reused, and processors are those granted (torch
    does not know quotas).
    """
    import torch

    reuse_freed_memory()
    if torch.get_num_threads() > available_cpus():
        torch.set_num_threads(available_cpus())


def weights_digest(network: torch.nn.Module) -> str:
    """Return a fingerprint of what a network has learnt: its parameters, not the statistics it
    gathered.
    """
    digest = hashlib.sha256()
    for value in network.parameters():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
