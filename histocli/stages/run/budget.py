"""How a run shares out its time budget.

Training is the only stage that can use any time: what it gets is what the others leave. How long
the slides will take is estimated before anything is made, with a network of the same size. How
many patches can be drawn is measured on a few, where the budget is short. What is decided is kept
beside the report, so that a resumed run decides alike.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from histocli.base.errors import InvalidOption
from histocli.base.progress import Bar, Track, silent
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.run import RunConfig
from histocli.config.segment import SegmentConfig
from histocli.model.segmenter import architecture_of_size, build_segmenter
from histocli.stages.generate.run import generate
from histocli.stages.run.report import SCHEMA, Places, read_ours, write_json
from histocli.stages.segment.run import segment
from histocli.stages.shared.results import Stopwatch
from histocli.stores.models import ModelHeader, write_model

logger = logging.getLogger(__name__)

# Reading, decoding and storing take about as long as the network (``benchmarks/speed.py``).
SLIDES_OVER_NETWORK = 2.0
SLIDE_S, SEGMENT_S = 1.0, 6.0  # seconds for each slide, and to load the network
SCORE_S, SCORES_S = 1.0, 5.0  # seconds to compare an image, and to write scores and page
MOST_AFTER = 0.6  # share of the budget that may go to what follows the training
GENERATE_SHARE = 0.3  # share of the rest that drawing may take, measuring included
REFINE_SHARE = 0.3  # share of the time after drawing that refinement takes, where it is asked for
LEAST_PATCHES = 64  # fewer are not drawn, however short the budget
# Patches of 256 px that the slowest processor draws in a second; where that is enough, nothing is
# measured.
SLOWEST_RATE = 4.0
PROBE_PATCHES = 16
STARTING_S = 6.0  # seconds until worker processes have loaded their libraries
DRAWING = "drawing patches"  # description of the bar of ``generate`` that is timed


@dataclass(frozen=True)
class Decided:
    """What a time budget has decided; with it, a resumed run makes the same outputs."""

    n: int
    """Patches to draw."""
    refine_s: float | None = None
    """Seconds for the refinement, or None to count steps."""
    train_s: float | None = None
    """Seconds for the training, or None to count steps."""


class Budget:
    """The decisions of a run, taken when they are due.

    Without a time budget there is nothing to decide.
    """

    def __init__(self, places: Places, config: RunConfig, execution: Execution) -> None:
        self.config, self.execution = config, execution
        self.watch = Stopwatch()
        self.after_s = 0.0  # seconds that are reserved for what follows the training
        self.decided = Decided(config.n)
        self._places = places
        # formats and the pixel size of slides change neither patches nor model
        made = replace(config, formats=("ome-zarr",), slide_mpp=None)
        self._mark = config_hash(made)
        known = {} if execution.overwrite else self._known()
        self._is_known = bool(known)
        if known:
            self.decided = Decided(**known)

    def _known(self) -> Json:
        """Return what an earlier run with these settings has decided, or nothing."""
        for path in (self._places.begun, self._places.report):
            found = read_ours(path)
            if found.get("config_hash") == self._mark and "decided" in found:
                return dict(found["decided"])
        return {}

    def record(self) -> Json:
        """Return what the report keeps of the decisions."""
        return {
            "config": as_dict(self.config),
            "config_hash": self._mark,
            "decided": as_dict(self.decided),
        }

    def foresee(self, slides: Sequence[str], images: int) -> None:
        """Estimate the seconds after the training; ``images`` are compared with a truth.

        Raises
        ------
        InvalidOption
            They take most of the budget.
        """
        budget = self.config.time_budget_s
        if budget is None or self.decided.train_s is not None:
            return
        planned = slides_s(slides, self.config, self.execution)
        self.after_s = planned + (SCORES_S + SCORE_S * images if images else 0.0)
        if self.after_s > MOST_AFTER * budget:
            enough = self.after_s / MOST_AFTER
            raise InvalidOption(
                f"--time-budget {budget:.0f}s: the slides alone take about {self.after_s:.0f} s, "
                f"so too little is left to learn; give {enough:.0f}s or more, or segment them later"
            )

    def decide_patches(self, references: Sequence[str]) -> None:
        """Choose the number of patches to draw."""
        budget = self.config.time_budget_s
        if budget is None or self._is_known:
            return
        allowed = GENERATE_SHARE * max(budget - self.after_s - self.watch.seconds, 0.0)
        ends = self.watch.seconds + allowed
        workers = resolve_workers(self.execution.workers)
        n, size = self.config.n, (self.config.patch_px / 256) ** 2
        if n * size > SLOWEST_RATE * workers * allowed:
            rate, measuring_s = drawn_per_s(references, self.config, self.execution)
            begins = self.watch.seconds + measuring_s + (STARTING_S if workers > 1 else 0.0)
            n = min(n, max(LEAST_PATCHES, int(rate * workers * (ends - begins))))
        if n < self.config.n:
            text = "%d of %d patches are drawn, as many as the time budget allows"
            logger.warning(text, n, self.config.n)
        self._decide(replace(self.decided, n=n))

    def decide_refinement(self) -> None:
        """Give the refinement its part of the time that is left, where it is asked for."""
        if self.config.time_budget_s is not None and self.decided.refine_s is None:
            self._decide(replace(self.decided, refine_s=round(REFINE_SHARE * self._left_s, 1)))

    def decide_training(self) -> None:
        """Give the training the time that is left."""
        if self.config.time_budget_s is not None and self.decided.train_s is None:
            self._decide(replace(self.decided, train_s=round(self._left_s, 1)))

    @property
    def _left_s(self) -> float:
        """Seconds until what follows the training has to begin; a tenth of the budget at least."""
        budget = self.config.time_budget_s or 0.0
        return max(budget - self.after_s - self.watch.seconds, 0.1 * budget)

    def _decide(self, decided: Decided) -> None:
        self.decided = decided
        write_json(self._places.begun, {"schema": SCHEMA, **self.record()})


def slides_s(slides: Sequence[str], config: RunConfig, execution: Execution) -> float:
    """Return the seconds that the slides are expected to take, from a dry run of ``segment``."""
    architecture = architecture_of_size(config.size)
    network = build_segmenter(architecture)
    blank = {name: value * 0 for name, value in network.state_dict().items()}  # finds nothing
    planned = replace(execution, dry_run=True, resume=False, overwrite=False, on_error="continue")
    with tempfile.TemporaryDirectory(prefix="histosynth-") as folder:
        model = Path(folder, "blank.safetensors")
        header = ModelHeader(architecture=architecture, mpp=config.mpp, config_hash="blank")
        write_model(model, blank, header)
        settings = SegmentConfig(mpp=config.slide_mpp)
        found = segment(slides, model, Path(folder, "out"), settings, planned)
    network_s: float = sum(result.plan["seconds"] for result in found if result.plan is not None)
    return SEGMENT_S + SLIDE_S * len(found) + SLIDES_OVER_NETWORK * network_s


def drawn_per_s(
    references: Sequence[str], config: RunConfig, execution: Execution
) -> tuple[float, float]:
    """Return how many patches one process draws in a second, and the seconds before it begins.

    A few patches are drawn and thrown away.
    """
    watch, timed = Stopwatch(), _Timed(DRAWING)
    once = replace(execution, workers=1, resume=False, overwrite=False)
    with tempfile.TemporaryDirectory(prefix="histosynth-") as folder:
        target = Path(folder, "probe.zarr")
        generate(references, target, config.generate_config(PROBE_PATCHES), once, track=timed.track)
    rate = PROBE_PATCHES / max(timed.seconds, 1e-3)
    return rate, max(watch.seconds - timed.seconds, 0.0)


class _Timed:
    """Measures how long the bar of one description is open."""

    def __init__(self, description: str) -> None:
        self.seconds = 0.0
        self._description = description

    @contextmanager
    def track(self, description: str, total: Any) -> Iterator[Bar]:
        """Show nothing; take the time of the bar."""
        watch = Stopwatch()
        with silent(description, total) as bar:
            yield bar
        if description == self._description:
            self.seconds = watch.seconds


def titled(track: Track, stage: str, place: str) -> Track:
    """Return a track whose descriptions begin with the stage and its place, such as ``2/3``."""

    @contextmanager
    def named(description: str, total: Any) -> Iterator[Bar]:
        task = "" if description == stage else f": {description}"
        with track(f"{place} {stage}{task}", total) as bar:
            yield bar

    return named
