"""The chain: generate, refine where it is asked for, train, segment, and evaluate with a truth.

Each stage applies its own rerun rule to its own output, so a finished stage is skipped, and an
unfinished one is gone on with::

    out/
    ├── patches.zarr         generate
    ├── refined.zarr         refine, with --refine
    ├── nuclei.safetensors   train (and nuclei.safetensors.log/)
    ├── nuclei/              segment: results of the slides
    ├── slides.html          all slides on a page
    ├── scores.json .html    evaluate, with --truth
    └── report.json          all of them, with links
"""

from __future__ import annotations

import glob
import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from histocli.base.files import check_parents, content_hash
from histocli.base.inputs import expand_inputs
from histocli.base.progress import Track, silent
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.run import RunConfig
from histocli.slides.open import SLIDE_SUFFIXES
from histocli.stages.evaluate.report import write_report
from histocli.stages.evaluate.run import evaluate
from histocli.stages.generate.run import generate
from histocli.stages.refine.run import refine
from histocli.stages.run.budget import Budget, titled
from histocli.stages.run.report import Places, RunResult, read_ours, write_json
from histocli.stages.segment.page import write_batch_page
from histocli.stages.segment.plan import without_outputs
from histocli.stages.segment.results import SegmentResult
from histocli.stages.segment.run import segment
from histocli.stages.shared.labels import LABEL_FINDER
from histocli.stages.shared.references import named_references
from histocli.stages.shared.results import StageResult, Status, Stopwatch
from histocli.stages.train.run import train

Tell = Callable[[str, Json], None]
"""Gets the name of each stage and its result when the stage is over."""


def run(
    references: Sequence[str],
    slides: Sequence[str],
    out: Path,
    config: RunConfig,
    execution: Execution,
    *,
    truth: str | None = None,
    track: Track = silent,
    tell: Tell = lambda stage, result: None,
) -> RunResult:
    """Go from unlabelled references to labelled slides.

    Parameters
    ----------
    references, slides : sequence of str
        Words as in :mod:`histocli.base.inputs`; manifests may give pixel sizes.
    out : Path
        Folder for all outputs.
    truth : str, optional
        Labels of the slides, to score the nuclei against.
    tell : callable
        Called after each stage.

    Returns
    -------
    RunResult
        ``skipped`` where every stage was complete.

    Raises
    ------
    HistosynthError
        As the stages raise it. What is finished stays; the same call goes on.
    """
    watch = Stopwatch()
    tolerant = execution.on_error == "continue"
    chain = _Chain(
        references=_words(references, out, "reference image", tolerant),
        slides=_words(slides, out, "slide", tolerant),
        truth=truth,
        places=Places(out),
        config=config,
        execution=execution,
        track=track,
        tell=tell,
    )
    chain.check()
    return chain.planned(watch) if execution.dry_run else chain.carry_out(watch)


def _words(words: Sequence[str], out: Path, what: str, keep_missing: bool) -> list[str]:
    """Return words for the same images that can be read twice and name no output of the run.

    Stages read stdin only once. Folders may hold the folder of outputs, and patches would be taken
    for images by the next run. Raises ``InputNotFound`` for a missing image unless it is kept.
    """
    given = list(words)
    if "-" in given:
        lines = expand_inputs(["-"], suffixes=SLIDE_SUFFIXES, stdin=sys.stdin, what=what)
        given = [*(word for word in given if word != "-"), *map(str, lines)]
    images = named_references(given, keep_missing=keep_missing, what=what)
    by_manifest = any(image.mpp is not None or image.roi is not None for image in images)
    # the words of a manifest say more than paths, and name no folder of outputs
    if by_manifest or not any(_may_hold(word, out) for word in given):
        return given
    place = out.absolute()
    others = [image for image in images if place not in image.path.absolute().parents]
    return [str(image.path) for image in without_outputs(others, given)]


def _may_hold(word: str, out: Path) -> bool:
    """Tell whether a folder or a pattern may name what lies in ``out``."""
    folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(word).parts))
    return folder.absolute() in out.absolute().parents


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """The stages of one run, with everything that they are given."""

    references: list[str]
    slides: list[str]
    truth: str | None
    places: Places
    config: RunConfig
    execution: Execution
    track: Track
    tell: Tell

    def check(self) -> None:
        """Find wrong inputs and places before any work is done."""
        check_parents(self.places.report)
        self.places.check_report()
        if self.truth is not None:
            LABEL_FINDER.find(self.truth)

    def planned(self, watch: Stopwatch) -> RunResult:
        """Return what a run would make, as far as it is known before."""
        drawing = self.config.generate_config(self.config.n)
        drawn = generate(self.references, self.places.patches, drawing, self.execution)
        config, plan = self.config.segment_config, replace(self.execution, overwrite=True)
        slides = segment(self.slides, None, self.places.nuclei, config, plan, track=self.track)
        stages = [{"stage": "generate", **drawn.to_json()}, self._summed(slides)]
        return self._result(stages, slides, None, "planned", watch)

    def carry_out(self, watch: Stopwatch) -> RunResult:
        """Carry out all stages and write the report."""
        budget = Budget(self.places, self.config, self.execution)
        images = 0 if self.truth is None else len(LABEL_FINDER.find(self.truth))
        budget.foresee(self.slides, images)
        budget.decide_patches(self.references)
        stages = [self._told("generate", self._generate(budget))]
        store = self.places.patches
        if self.config.refine:
            budget.decide_refinement()
            stages.append(self._told("refine", self._refine(budget)))
            store = self.places.refined
        budget.decide_training()
        stages.append(self._told("train", self._train(store, budget)))
        slides = self._segment()
        stages.append(self._summed(slides))
        if stages[-1]["status"] != "skipped" or not self.places.slides_page.exists():
            write_batch_page(self.places.slides_page, slides, track=self._titled("segment"))
        self.tell("segment", stages[-1])
        scores = None
        if self.truth is not None:
            stages.append(self._evaluate(stages))
            self.tell("evaluate", stages[-1])
            scores = stages[-1].get("mean")
        skipped = all(stage["status"] == "skipped" for stage in stages)
        result = self._result(stages, slides, scores, "skipped" if skipped else "done", watch)
        if not skipped or not self.places.report.exists():
            write_json(self.places.report, result.to_json() | budget.record())
        with suppress(FileNotFoundError):
            self.places.begun.unlink()
        return result

    def _generate(self, budget: Budget) -> StageResult:
        config = self.config.generate_config(budget.decided.n)
        track = self._titled("generate")
        return generate(self.references, self.places.patches, config, self.execution, track=track)

    def _refine(self, budget: Budget) -> StageResult:
        config = self.config.refine_config(budget.decided.refine_s)
        track = self._titled("refine")
        places, words = self.places, self.references
        return refine(
            str(places.patches), words, places.refined, config, self.execution, track=track
        )

    def _train(self, store: Path, budget: Budget) -> StageResult:
        config = self.config.train_config(budget.decided.train_s)
        refs = self.references if self.config.self_training else []
        track = self._titled("train")
        return train(
            [str(store)], self.places.model, config, self.execution, refs=refs, track=track
        )

    def _segment(self) -> list[SegmentResult]:
        config, places, track = self.config.segment_config, self.places, self._titled("segment")
        return segment(
            self.slides, places.model, places.nuclei, config, self.execution, track=track
        )

    def _evaluate(self, before: Sequence[Json]) -> Json:
        """Score the slides, unless the scores of these results and this truth are there."""
        assert self.truth is not None
        path = Path(self.truth)
        mark = content_hash(path) if path.exists() else None
        found = read_ours(self.places.scores)
        skipped = before[-1]["status"] == "skipped" and mark is not None
        if skipped and found.get("truth_sha256") == mark and self.places.page.exists():
            return {"stage": "evaluate", **found, "status": "skipped"}
        track = self._titled("evaluate")
        config, nuclei = self.config.evaluate_config, str(self.places.nuclei)
        result = evaluate(nuclei, self.truth, config, self.execution, track=track)
        again = replace(self.execution, overwrite=True)
        pictures = self.slides[0] if len(self.slides) == 1 else None
        write_report(self.places.page, [result], [], again, images=pictures, track=track)
        scores = result.to_json() | {"truth_sha256": mark}
        write_json(self.places.scores, scores)
        return {"stage": "evaluate", **scores, "output": str(self.places.scores)}

    def _titled(self, stage: str) -> Track:
        names = ["generate", *(["refine"] if self.config.refine else []), "train", "segment"]
        names += [] if self.truth is None else ["evaluate"]
        return titled(self.track, stage, f"{names.index(stage) + 1}/{len(names)}")

    def _told(self, stage: str, result: StageResult) -> Json:
        values: Json = {"stage": stage, **result.to_json()}
        self.tell(stage, values)
        return values

    def _summed(self, slides: Sequence[SegmentResult]) -> Json:
        """Return one result for all slides."""
        counts = dict.fromkeys(("done", "skipped", "planned", "failed"), 0)
        for slide in slides:
            counts[slide.status] += 1
        first = next((status for status in counts if counts[status]), "skipped")
        return {
            "stage": "segment",
            "output": str(self.places.nuclei),
            "status": first,
            "slides": len(slides),
            "counts": {status: n for status, n in counts.items() if n},
            "nuclei": sum(slide.nuclei or 0 for slide in slides),
            "mm2": sum(slide.mm2 or 0.0 for slide in slides),
            "seconds": round(sum(slide.seconds for slide in slides), 3),
        }

    def _result(
        self,
        stages: list[Json],
        slides: list[SegmentResult],
        scores: Json | None,
        status: Status,
        watch: Stopwatch,
    ) -> RunResult:
        lost = [
            one["name"] if isinstance(one, dict) else one  # images that could not be compared
            for stage in stages
            for one in stage.get("failed", ())
        ]
        lost += [slide.input for slide in slides if slide.status == "failed"]
        summed = next(stage for stage in stages if stage["stage"] == "segment")
        return RunResult(
            output=str(self.places.report),
            status=status,
            seconds=watch.seconds,
            stages=stages,
            slides=[slide.to_json() for slide in slides],
            nuclei=summed["nuclei"],
            mm2=summed["mm2"],
            scores=scores,
            links=self.places.links(slides),
            failed=tuple(dict.fromkeys(lost)),
        )
