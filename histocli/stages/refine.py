"""``histosynth refine``: initial patches become realistic, in the style of a reference, with labels
that stay true.

Trains a refiner against critics on patches of the references, then repaints every patch, checks
that its labels still fit by a method that knows nothing of the refiner, and weighs it by a
classifier that has not seen it. The refined store keeps the labels bit for bit, and holds the
networks. Beside it, ``<out>.log/`` holds ``metrics.jsonl``, sheets of initial, refined and
reference patches and, until the store is written, the checkpoint that ``--resume`` goes on from.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.device import prepare_process, resolve_device, resolve_precision
from histocli.base.distributed import Team, local_device, team, weights_digest
from histocli.base.errors import HistosynthError, InvalidInput, InvalidStore, Stopped
from histocli.base.inputs import expand_inputs
from histocli.base.interrupts import raise_if_stopped, stop_requested
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track, silent
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.base.text import first_line
from histocli.base.types import Json
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.refine import RefineConfig
from histocli.exports.pictures import write_png
from histocli.figures.sheets import picture_rows
from histocli.model.normalisation import glass_to_white, white_to_glass
from histocli.model.refiner import Refiner, RefinerArchitecture, build_refiner, describe_refiner
from histocli.optics.density import optical_density_to_rgb, rgb_to_optical_density, white_level
from histocli.optics.stains import restain
from histocli.reference.statistics import analyse_reference
from histocli.stages.real_patches import cut_real_patches, label_agreement
from histocli.stages.shared.references import (
    Source,
    identify_references,
    patch_glass_levels,
    reference_images,
)
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stages.shared.session import Clock
from histocli.stores.logs import append_metrics, preview_path, start_log
from histocli.stores.models import (
    checkpoint_path,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import prepare_output
from histocli.training.adversarial.guard import Guard
from histocli.training.adversarial.judge import HeldOut, judge_held_out
from histocli.training.adversarial.networks import AdversarialTraining, Networks
from histocli.training.adversarial.repaint import refine_patches
from histocli.training.adversarial.sampling import InitialPatches, RealPatches, Sampler, hold_out
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.adversarial.step import StepReport, summarise, train_adversarial
from histocli.training.two_sample import (
    TwoSampleSchedule,
    effective_share,
    importance_weights,
    judge,
    weights_of_kept,
)

logger = logging.getLogger(__name__)

MOST_REAL = 1536  # real patches held in memory
MOST_INITIAL = 1500  # initial patches the refiner learns on
MOST_SOURCES = 512
CROP_PX = 128
# times in the course of a training that a critic which has not proven itself is judged again
PROOFS = 40
RECORD_EVERY = 20
CHECKPOINT_S = 60.0
JUDGEMENTS = 6  # times that held-out crops are judged in the course of a training
LOST = 0.1  # agreement of labels with the picture that a patch may lose
# of a time budget, for what comes after the training
RESERVE_S, RESERVE_PER_PATCH_S, WEIGHTS_S = 12.0, 0.045, 60.0
JUDGED_PX = 128  # side of the middle of each patch that the classifier of weights sees
MOST_JUDGED = 20_000
LEAST_EFFECTIVE = 0.5  # weights are flattened until this share of the patches counts
DIFFERENT_STAIN_DEG = 25.0


@dataclass(frozen=True, kw_only=True)
class RefineResult(StageResult):
    """What refinement made."""

    schema: ClassVar[str] = "histosynth.refine/1"

    patches: int
    references: int
    """Reference files whose style patches have."""
    steps: int | None
    moves: int | None
    """Steps in which the refiner moved; None where an earlier one was applied."""
    critic_auc: float | None
    """Held-out, of real nuclei against initial ones: above 0.9 the critic was worth listening
    to."""
    style_auc: float | None
    """Held-out, of the style critic: matched pairs of real crops against shuffled ones."""
    agreement: Json | None
    """Mean AJI between the labels and the rough nuclei of the picture: initial, refined."""
    rejected: int | None
    """Patches whose labels no longer fit: their weight is 0."""
    auc: float | None
    """Of fresh classifiers, cross-validated by reference: real against refined patches; 0.5 means
    that they cannot tell."""
    effective_share: float | None
    """Effective sample size of the weights over the number of patches."""
    mpp: float
    device: str
    precision: str
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ReadJob:
    source: Source
    mpp: float
    patch_px: int
    most: int
    seed: int
    measure: bool
    """Measure all statistics: the initial store does not record this reference."""


@dataclass(frozen=True)
class _Real:
    """Patches of one reference, glass made white."""

    images: npt.NDArray[np.uint8]
    nuclei: npt.NDArray[np.bool_]
    statistics: Json | None


@dataclass(frozen=True)
class _Styles:
    """The references, as refinement uses them."""

    sources: list[Source]
    records: list[ReferenceRecord]
    """Of the refined store: those of the initial store, then those of sources that it does not
    know."""
    record_of: list[int]
    """Which record describes each source."""
    real: RealPatches
    style_of: npt.NDArray[np.int64]
    """(n,), the source each patch is refined towards."""
    own: npt.NDArray[np.bool_]
    """(n,), whether that is the reference it was made from."""


def refine(
    store: str,
    references: Sequence[str],
    out: Path,
    config: RefineConfig,
    execution: Execution,
    *,
    stop_after: int | None = None,
    track: Track = silent,
) -> RefineResult:
    """Refine a patch store.

    Parameters
    ----------
    store : str
        Initial patch store, or ``-`` for its path on stdin.
    references : sequence of str
        Files, folders, globs, ``@list``, manifests; empty takes the references that the store
        records.
    out : Path
        Patch store to make.
    config : RefineConfig
    execution : Execution
    stop_after : int, optional
        Save a checkpoint and stop after this many steps in all.
    track : Track
        Shows progress.

    Returns
    -------
    RefineResult

    Raises
    ------
    InvalidStore, InputNotFound, InvalidInput
        The store, the references or the model cannot be used.
    StoreExists
        Something is in the way of ``out``.
    Stopped
        A signal came, or ``stop_after`` was reached; what is done is kept for ``--resume``.
    """
    watch = Stopwatch()
    initial = _open(store)
    tolerant = execution.on_error == "continue"
    images = reference_images(initial, references, keep_missing=tolerant)
    sources, failed = identify_references(
        images,
        mpp=initial.mpp,
        reference_mpp=config.reference_mpp,
        tolerant=tolerant,
        command="refine",
    )
    device = resolve_device(execution.device)
    dtype = resolve_precision(execution.precision, device)
    trained = _trained_refiner(Path(config.model)) if config.model is not None else None
    fingerprint = config_hash(
        replace(config, model=None),
        store=initial.content_hash(),
        references=[[source.sha256, source.mpp] for source in sources],
        model=None if config.model is None else PatchStore.open(config.model).content_hash(),
    )
    result = RefineResult(
        output=str(out),
        status="planned",
        seconds=0,
        patches=len(initial),
        references=len(sources),
        steps=None if trained else config.steps,
        moves=None,
        critic_auc=None,
        style_auc=None,
        agreement=None,
        rejected=None,
        auc=None,
        effective_share=None,
        mpp=initial.mpp,
        device=str(device),
        precision="bf16" if dtype == torch.bfloat16 else "fp32",
        failed=tuple(failed),
    )
    device = local_device(device)
    with team(device) as members:
        action = members.from_leader(
            prepare_output(
                out,
                contract=CONTRACT,
                config_hash=fingerprint,
                resume=execution.resume,
                overwrite=execution.overwrite,
                dry_run=execution.dry_run,
            )
            if members.leads
            else None
        )
        if action == "skip" or execution.dry_run:
            return replace(
                result, status="skipped" if action == "skip" else "planned", seconds=watch.seconds
            )
        prepare_process()
        run = _Run(
            initial,
            out,
            config,
            execution,
            fingerprint,
            device,
            dtype,
            members,
            watch,
            stop_after,
            track,
        )
        found = run.go(sources, trained, resume=action == "resume")
    return replace(result, status="done", seconds=watch.seconds, **found)


def _open(word: str) -> PatchStore:
    found = expand_inputs([word], suffixes=(".zarr",), stdin=sys.stdin, what="patch store")
    if len(found) > 1:
        raise InvalidInput(
            f"{word}: holds {len(found)} stores, and refine takes one at a time; call it once for each"
        )
    store = PatchStore.open(found[0])
    if store.origin != "initial":
        raise InvalidStore(
            f"{store.path}: holds {store.origin} patches, and refine takes initial ones, as histosynth generate makes them"
        )
    if store.patch_px < 64 or store.patch_px % 4:
        raise InvalidStore(
            f"{store.path}: patches of {store.patch_px} px cannot be refined; at least 64 and a multiple of 4 is needed"
        )
    return store


def _trained_refiner(path: Path) -> Refiner:
    """Take the refiner out of a refined store."""
    store = PatchStore.open(path)
    networks = store.networks()
    if "averaged" not in networks:
        raise InvalidStore(f"{path}: holds no refiner; give a store that histosynth refine made")
    refiner = build_refiner(store.attributes.get("refinement", {}).get("architecture"))
    try:
        refiner.load_state_dict(
            {name: torch.from_numpy(value) for name, value in networks["averaged"].items()}
        )
    except RuntimeError as error:
        raise InvalidStore(
            f"{path}: its refiner does not fit its description ({first_line(error)}); make it again"
        ) from error
    return refiner.eval()


def _read_source(job: _ReadJob) -> _Real | str:
    """Cut patches of a reference that do not overlap; a message where it cannot be read."""
    try:
        cut = cut_real_patches(job.source, job.mpp, job.patch_px, job.most, job.seed)
    except HistosynthError as error:
        return str(error)
    statistics = None
    if job.measure:
        part = cut.pixels[:1024, :1024]
        rng = rng_for(job.seed, job.source.sha256)
        statistics = analyse_reference(
            np.ascontiguousarray(part), job.mpp, job.source.path.name, rng
        ).statistics.to_json()
    return _Real(cut.images, cut.nuclei, statistics)


class _Run:
    """One refinement with its files."""

    def __init__(
        self,
        initial: PatchStore,
        out: Path,
        config: RefineConfig,
        execution: Execution,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        members: Team,
        watch: Stopwatch,
        stop_after: int | None,
        track: Track,
    ) -> None:
        self.initial = initial
        self.out = out
        self.config = config
        self.execution = execution
        self.fingerprint = fingerprint
        self.device = device
        self.dtype = dtype
        self.members = members
        self.stop_after = stop_after
        self.track = track
        weights_s = WEIGHTS_S if config.weights else 0.0
        reserve_s = RESERVE_S + RESERVE_PER_PATCH_S * len(initial) + weights_s
        self.clock = Clock(config.steps, config.time_budget_s, reserve_s, watch)
        self.held: HeldOut | None = None
        self.finished = False
        self.saved_at = time.monotonic()

    def go(self, sources: list[Source], trained: Refiner | None, *, resume: bool) -> Json:
        """Train, repaint, check, weigh and write; returns what the result reports."""
        styles = self._read_references(sources)
        provenance = Provenance(
            contract=CONTRACT,
            command="refine",
            config=as_dict(self.config),
            config_hash=self.fingerprint,
            seed=self.config.seed,
        )
        if not self.members.leads:  # helps to train; the first process writes
            if trained is None:
                self._train(styles, restore=resume)
            return {}
        with PatchStoreWriter(
            self.out,
            n=len(self.initial),
            patch_px=self.initial.patch_px,
            mpp=self.initial.mpp,
            origin="refined",
            references=styles.records,
            provenance=provenance,
            shippable=self.initial.shippable,
        ) as writer:
            start_log(self.out, keep=resume)
            if not resume:
                remove_checkpoint(self.out)
            about: Json = {}
            if trained is None:
                training = self._train(styles, restore=resume)
                refiner = training.networks.averaged
                about = {"steps": training.step, "moves": training.moves}
                if self.held is not None:
                    about |= {
                        "critic_auc": _number(self.held.auc_initial),
                        "style_auc": _number(self.held.style_matched),
                    }
                networks = training.networks.by_name()
            else:
                refiner = trained.to(self.device)
                networks = {"averaged": refiner}
            about |= self._repaint(writer, refiner, styles)
            about |= self._weigh(writer, styles)
            writer.write_networks(
                {
                    name: {
                        key: value.detach().float().cpu().numpy()
                        for key, value in network.state_dict().items()
                    }
                    for name, network in networks.items()
                }
            )
            writer.add_attributes(
                {
                    "initial": {
                        "name": self.initial.path.name,
                        "sha256": self.initial.content_hash(),
                    },
                    "refinement": about | {"architecture": describe_refiner(refiner)},
                }
            )
            writer.finish()
        remove_checkpoint(self.out)
        return about | {"references": len(styles.sources)}

    def _read_references(self, sources: list[Source]) -> _Styles:
        known = {
            record.sha256: index
            for index, record in reversed(list(enumerate(self.initial.references)))
        }
        if len(sources) > MOST_SOURCES:
            chosen = np.sort(
                rng_for(self.config.seed, "sources").choice(
                    len(sources), MOST_SOURCES, replace=False
                )
            )
            logger.warning("%d of %d references are used", MOST_SOURCES, len(sources))
            sources = [sources[int(i)] for i in chosen]
        side = self.initial.patch_px
        most = max(2, MOST_REAL * 256**2 // side**2 // len(sources))
        jobs = [
            _ReadJob(
                source, self.initial.mpp, side, most, self.config.seed, source.sha256 not in known
            )
            for source in sources
        ]
        workers = min(resolve_workers(self.execution.workers), max(1, len(jobs) // 4))
        found: dict[int, _Real] = {}
        order = {id(job): index for index, job in enumerate(jobs)}
        stopped = f"{self.out}: stopped before the first step; run it again"
        with self.track("reading references", len(jobs)) as bar:
            for job, read in map_unordered(_read_source, jobs, workers, stopped):
                if isinstance(read, str):
                    if self.execution.on_error == "stop":
                        raise InvalidInput(read)
                    logger.warning("%s", read)
                elif len(read.images):
                    found[order[id(job)]] = read
                bar.advance()
        if not found:
            raise InvalidInput(
                f"{sources[0].path}: none of the {len(sources)} references shows nuclei; give images of stained tissue"
            )
        if len(found) < len(sources):
            logger.warning(
                "%d of %d references show no nuclei and are left out",
                len(sources) - len(found),
                len(sources),
            )
        if len(found) == 1:
            logger.warning(
                "there is one reference: style cannot be learnt, and critics are judged on patches of the same image"
            )
        records = [replace(record) for record in self.initial.references]
        used, record_of = [], []
        for number in sorted(found):
            source, statistics = sources[number], found[number].statistics
            if source.sha256 in known:
                record_of.append(known[source.sha256])
            else:
                record_of.append(len(records))
                records.append(
                    ReferenceRecord(
                        name=source.path.name,
                        sha256=source.sha256,
                        mpp=source.mpp,
                        mpp_source=source.mpp_source,
                        statistics=statistics or {},
                        path=str(source.path.absolute()),
                    )
                )
            used.append(source)
        parts = [found[number] for number in sorted(found)]
        real = RealPatches(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.nuclei for part in parts]),
            np.repeat(np.arange(len(parts)), [len(part.images) for part in parts]),
        )
        style_of, own = self._choose_styles(used)
        self._warn_of_other_stains(records, record_of)
        return _Styles(used, records, record_of, real, style_of, own)

    def _choose_styles(
        self, sources: list[Source]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Say which reference each patch is refined towards: its own, or with ``--restyle`` another
        one.
        """
        number = {source.sha256: index for index, source in enumerate(sources)}
        own = np.array([number.get(record.sha256, -1) for record in self.initial.references])[
            self.initial.reference
        ]
        foreign = own < 0
        if foreign.any() and not self.config.restyle:
            logger.warning(
                "%d of %d patches were made from images that are not among the references; they get the stains of others",
                int(foreign.sum()),
                len(own),
            )
        drawn = np.array(
            [
                rng_for(self.config.seed, "style", patch).integers(len(sources))
                for patch in range(len(own))
            ],
            np.int64,
        )
        style_of = drawn if self.config.restyle else np.where(foreign, drawn, own)
        return style_of, style_of == own

    def _warn_of_other_stains(self, records: list[ReferenceRecord], record_of: list[int]) -> None:
        stains = [
            np.asarray(record.statistics.get("appearance", {}).get("stain_matrix", np.nan), float)
            for record in records
        ]
        before = [
            stains[index]
            for index in np.unique(self.initial.reference)
            if stains[index].shape == (2, 3)
        ]
        after = [stains[index] for index in record_of if stains[index].shape == (2, 3)]
        if not before or not after:
            return
        unit = []
        for side in (before, after):
            middle = np.median(side, axis=0)
            unit.append(middle / np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-6))
        angle = float(np.rad2deg(np.arccos(np.clip((unit[0] * unit[1]).sum(axis=1), -1, 1))).max())
        if angle > DIFFERENT_STAIN_DEG:
            logger.warning(
                "the references are stained otherwise than the patches (%.0f degrees apart); is that meant?",
                angle,
            )

    def _samplers(self, styles: _Styles) -> tuple[Sampler, Sampler, AdversarialSchedule]:
        """Return what the networks learn from, and what they are judged on."""
        crop = min(CROP_PX, self.initial.patch_px // 2 // 8 * 8)
        schedule = AdversarialSchedule(
            batch=self.config.batch,
            crop_px=crop,
            style_weight=self.config.style,
            identity_weight=self.config.identity,
            edits=self.config.edits,
            objective=self.config.objective,
            seed=self.config.seed,
        )
        rng = rng_for(self.config.seed, "held out")
        usable = np.sort(rng.permutation(len(self.initial))[:MOST_INITIAL])
        images, labels = self._initial_white(usable, styles)
        patches = InitialPatches(images, labels, styles.style_of[usable])

        def sampler(initial: InitialPatches, real: RealPatches) -> Sampler:
            return Sampler(initial, real, self.initial.mpp, schedule)

        out = hold_out(patches, styles.real, rng)
        if out is None:
            logger.warning(
                "there are too few references to hold some out; the critics are judged on what they learnt from"
            )
            everything = sampler(patches, styles.real)
            return everything, everything, schedule
        learn = sampler(patches.part(~out.initial), styles.real.part(~out.real))
        return learn, sampler(patches.part(out.initial), styles.real.part(out.real)), schedule

    def _initial_white(
        self, patches: npt.NDArray[np.integer], styles: _Styles
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Read patches, glass made white, with the stains of their style."""
        side = self.initial.patch_px
        images = np.empty((len(patches), side, side, 3), np.uint8)
        labels = np.empty((len(patches), side, side), np.int32)
        place = {int(patch): index for index, patch in enumerate(patches)}
        for batch in self.initial.batches():
            wanted = [patch for patch in batch if patch in place]
            if not wanted:
                continue
            read, read_labels = self.initial.read(batch)
            white = self._whiten(batch, read, styles)
            for patch in wanted:
                images[place[patch]], labels[place[patch]] = (
                    white[patch - batch.start],
                    read_labels[patch - batch.start],
                )
        return images, labels

    def _whiten(
        self, batch: range, images: npt.NDArray[np.uint8], styles: _Styles
    ) -> npt.NDArray[np.uint8]:
        """Make glass white; patches that get another reference get its stains."""
        levels = patch_glass_levels(self.initial, batch, images)
        white = np.stack(
            [glass_to_white(image, level) for image, level in zip(images, levels, strict=True)]
        )
        for index, patch in enumerate(batch):
            if styles.own[patch]:
                continue
            own = self.initial.references[self.initial.reference[patch]].statistics.get(
                "appearance", {}
            )
            other = styles.records[styles.record_of[styles.style_of[patch]]].statistics.get(
                "appearance", {}
            )
            if not own.get("stain_matrix") or not other.get("stain_matrix"):
                continue
            gains = [
                float(np.clip(other[stain][3] / max(own[stain][3], 0.05), 0.4, 2.5))
                for stain in ("hematoxylin", "eosin")
            ]
            matrices = [np.array(side["stain_matrix"], np.float64) for side in (own, other)]
            density = restain(
                rgb_to_optical_density(white[index]), matrices[0], matrices[1], np.array(gains)
            )
            white[index] = optical_density_to_rgb(density)
        return white

    def _train(self, styles: _Styles, *, restore: bool) -> AdversarialTraining:
        learn, judged, schedule = self._samplers(styles)
        torch.manual_seed(self.config.seed)
        refiner = Refiner(RefinerArchitecture(edits=self.config.edits))
        networks = Networks.fresh(refiner, self.config.seed).to(self.device)
        training = AdversarialTraining.start(networks, schedule, self.members.wrap)
        training.proven = self.config.proof == 0
        checkpoint = checkpoint_path(self.out)
        if restore and checkpoint.exists():
            self._restore(training, checkpoint)
        guard = Guard(training)
        shown = 0
        done = int(self.clock.progress(training.step) * JUDGEMENTS)
        proofs = 0
        recent: list[StepReport] = []
        total = 1000 if self.clock.budget_s is not None else self.config.steps
        with self.track("training the refiner", total) as bar:
            for report in train_adversarial(
                training,
                learn,
                schedule,
                self._progress,
                self.dtype,
                self.members.rank,
                self.members.mean,
            ):
                recent = [*recent[-(RECORD_EVERY - 1) :], report]
                trouble = guard.look(report)
                if trouble:
                    self._go_back(guard, report.step, trouble)
                    if guard.hopeless:
                        break
                    guard.slow_down()
                    continue
                if report.step % RECORD_EVERY == 0:
                    self._log(summarise(recent) | {"seconds": self.clock.trained_s})
                progress = min(self._progress(report.step), 1.0)
                if round(progress * total) > shown:
                    note = (
                        f"step {report.step}, critic {report.critic:.2f}, skill {report.skill:.2f}"
                    )
                    bar.advance(round(progress * total) - shown, note)
                    shown = round(progress * total)
                if (
                    not training.proven
                    and progress >= schedule.warm_up
                    and proofs < int(progress * PROOFS)
                ):
                    proofs = int(progress * PROOFS)
                    self._prove(training, judged)
                if done < int(progress * JUDGEMENTS):
                    done = int(progress * JUDGEMENTS)
                    trouble = self._judge(training, judged, styles)
                    if trouble:
                        self._go_back(guard, report.step, trouble)
                        break
                    guard.remember()
                self._maybe_stop(training, progress)
        self._conclude(training, judged, styles)
        return training

    def _conclude(self, training: AdversarialTraining, judged: Sampler, styles: _Styles) -> None:
        """Say what came of the training, and keep it: an interruption while patches are repainted
        costs no training.
        """
        if self.held is None:
            self._judge(training, judged, styles)
        if not training.moves:
            logger.warning(
                "the refiner never moved: the critic told real from initial patches with a held-out AUC of %.2f, and %.2f is "
                "asked for (--proof); train longer, or take the initial patches as they are",
                self.held.auc_initial if self.held else math.nan,
                self.config.proof,
            )
        digests = self.members.gather(weights_digest(training.networks.averaged))
        self._log({"processes": len(digests), "processes_agree": len(set(digests)) == 1})
        if self.members.leads and not self.finished:
            self.finished = True
            self._save(training)

    def _progress(self, step: int) -> float:
        """Share of the training that is done; all processes go by the first one's clock."""
        if self.finished:
            return 1.0
        return float(self.members.from_leader(self.clock.progress(step)))

    def _log(self, values: Json) -> None:
        if self.members.leads:
            append_metrics(self.out, values)

    def _go_back(self, guard: Guard, step: int, trouble: str) -> None:
        """Go back to the last good weights, and say why."""
        logger.warning("step %d: %s; the last good weights are kept", step, trouble)
        self._log({"step": step, "trouble": trouble})
        guard.go_back()

    def _judge(
        self, training: AdversarialTraining, sampler: Sampler, styles: _Styles
    ) -> str | None:
        """Judge held-out crops, and show some patches; returns what is wrong, if anything is."""
        self.held = judge_held_out(training, sampler, self.config.seed, 6, 8, self.dtype)
        self._log(
            {
                "step": training.step,
                "held_out": {key: _number(value) for key, value in asdict(self.held).items()},
                "critic_proven": training.proven,
            }
        )
        if self.members.leads:
            self._show(training, styles)
        return Guard.collapsed(self.held)

    def _prove(self, training: AdversarialTraining, sampler: Sampler) -> None:
        """Let the refiner move once the critic tells held-out real patches from initial ones well
        enough.
        """
        held = judge_held_out(training, sampler, self.config.seed, 6, 8, self.dtype)
        training.proven = bool(self.members.from_leader(held.auc_initial >= self.config.proof))
        self._log(
            {
                "step": training.step,
                "critic_auc": _number(held.auc_initial),
                "critic_proven": training.proven,
            }
        )

    def _show(self, training: AdversarialTraining, styles: _Styles) -> None:
        patches = np.linspace(0, len(self.initial) - 1, min(6, len(self.initial))).astype(int)
        images, labels = self._initial_white(patches, styles)
        crops = self._reference_crops(patches, styles)
        refined, _ = refine_patches(
            training.networks.averaged,
            images,
            labels,
            crops,
            [rng_for(self.config.seed, "noise", int(patch)) for patch in patches],
            self.initial.mpp,
            self.dtype,
        )
        rows = [list(row) for row in zip(images, refined, crops.images, strict=True)]
        write_png(preview_path(self.out, training.step), picture_rows(rows))

    def _reference_crops(self, patches: npt.NDArray[np.integer], styles: _Styles) -> RealPatches:
        """Return a patch of the reference of each of some patches: always the same one."""
        chosen = []
        for patch in patches:
            candidates = np.flatnonzero(styles.real.image_of == styles.style_of[patch])
            chosen.append(
                int(rng_for(self.config.seed, "reference patch", int(patch)).choice(candidates))
            )
        return styles.real.part(np.array(chosen))

    def _maybe_stop(self, training: AdversarialTraining, progress: float) -> None:
        asked = stop_requested() or (
            self.stop_after is not None and training.step >= self.stop_after
        )
        asked = any(self.members.gather(asked)) and progress < 1
        if self.members.leads and (asked or time.monotonic() - self.saved_at > CHECKPOINT_S):
            self._save(training)
        if asked:
            raise Stopped(
                f"{self.out}: stopped after {training.step} steps, the checkpoint is saved; run the same command with --resume"
            )

    def _save(self, training: AdversarialTraining) -> None:
        state = training.state() | {
            "trained_s": self.clock.trained_s,
            "held": None if self.held is None else asdict(self.held),
            "finished": self.finished,
        }
        write_checkpoint(checkpoint_path(self.out), state, config_hash=self.fingerprint)
        self.saved_at = time.monotonic()

    def _restore(self, training: AdversarialTraining, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        state: dict[str, Any] = checkpoint.state
        try:
            if checkpoint.config_hash != self.fingerprint:
                raise ValueError("it was made with other settings or inputs")
            training.restore(state)
            self.clock.earlier_s = float(state["trained_s"])
            self.held = None if state["held"] is None else HeldOut(**state["held"])
            self.finished = bool(state["finished"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidStore(
                f"{path}: the checkpoint does not fit this refinement ({first_line(error)}); start anew with --overwrite"
            ) from error

    def _repaint(self, writer: PatchStoreWriter, refiner: Refiner, styles: _Styles) -> Json:
        """Repaint all patches that are not written yet; patches whose labels no longer fit get the
        weight 0.
        """
        refiner.eval()
        agreement: list[tuple[float, float]] = []
        pending = writer.pending()
        stopped = f"{self.out}: stopped; the patches refined so far are kept, run the same command with --resume"
        with (
            self.track("refining patches", len(self.initial)) as bar,
            ThreadPoolExecutor(resolve_workers(self.execution.workers)) as pool,
        ):
            bar.advance(len(self.initial) - sum(len(batch) for batch in pending))
            for batch in pending:
                raise_if_stopped(stopped)
                patches = np.arange(batch.start, batch.stop)
                read, labels = self.initial.read(batch)
                white = self._whiten(batch, read, styles)
                crops = self._reference_crops(patches, styles)
                refined, closed = refine_patches(
                    refiner,
                    white,
                    labels,
                    crops,
                    [rng_for(self.config.seed, "noise", int(patch)) for patch in patches],
                    self.initial.mpp,
                    self.dtype,
                )
                both = list(
                    pool.map(_agreement, labels, white, refined, [self.initial.mpp] * len(labels))
                )
                agreement += both
                kept = np.array([after >= before - LOST for before, after in both], np.float32)
                images = self._darken(patches, refined, closed, read, styles)
                reference = np.array(
                    [styles.record_of[styles.style_of[patch]] for patch in patches], np.int32
                )
                reference = np.where(
                    styles.own[patches], self.initial.reference[patches], reference
                ).astype(np.int32)
                writer.write(batch, images, labels, kept, reference)
                bar.advance(len(batch))
        rejected = int((writer.weights() == 0).sum())
        found: Json = {"rejected": rejected}
        if agreement:
            before, after = np.mean(agreement, axis=0)
            found["agreement"] = {
                "initial": round(float(before), 4),
                "refined": round(float(after), 4),
            }
        if rejected > 0.2 * len(self.initial):
            logger.warning(
                "%d of %d patches no longer fit their labels and get the weight 0; raise --identity",
                rejected,
                len(self.initial),
            )
        self._log({"agreement": found.get("agreement"), "rejected": rejected})
        return found

    def _darken(
        self,
        patches: npt.NDArray[np.integer],
        refined: npt.NDArray[np.uint8],
        closed: npt.NDArray[np.bool_],
        read: npt.NDArray[np.uint8],
        styles: _Styles,
    ) -> npt.NDArray[np.uint8]:
        """Bring glass back to the level of the reference; what was not repainted stays bit for
        bit.
        """
        images = np.empty_like(refined)
        for index, patch in enumerate(patches):
            own = bool(styles.own[patch])
            number = (
                int(self.initial.reference[patch])
                if own
                else styles.record_of[styles.style_of[patch]]
            )
            recorded = styles.records[number].statistics.get("appearance", {}).get("white_level")
            level = float(recorded) if recorded is not None else white_level(read[index])
            images[index] = white_to_glass(refined[index], level)
            if own:
                images[index] = np.where(closed[index][..., None], read[index], images[index])
        return images

    def _weigh(self, writer: PatchStoreWriter, styles: _Styles) -> Json:
        """Weigh patches by cross-fitted, calibrated classifiers of real against refined."""
        kept = (writer.weights() > 0).astype(np.float32)
        if not self.config.weights or len(styles.sources) < 2 or not kept.any():
            if self.config.weights and len(styles.sources) < 2:
                logger.warning(
                    "weights need at least two references, so that a classifier can be asked about unseen ones"
                )
            writer.replace_weights(kept)
            return {"auc": None, "effective_share": _number(effective_share(kept))}
        middle = slice((self.initial.patch_px - min(JUDGED_PX, self.initial.patch_px)) // 2, None)
        middle = slice(middle.start, middle.start + min(JUDGED_PX, self.initial.patch_px))
        chosen = np.arange(len(self.initial))
        if len(chosen) > MOST_JUDGED:
            chosen = np.sort(
                rng_for(self.config.seed, "judged").choice(len(chosen), MOST_JUDGED, replace=False)
            )
        crops = np.empty(
            (len(self.initial), middle.stop - middle.start, middle.stop - middle.start, 3), np.uint8
        )
        for batch in writer.batches():
            images, _ = writer.read_back(batch)
            levels = [
                styles.records[int(number)].statistics.get("appearance", {}).get("white_level")
                for number in self._numbers(batch, styles)
            ]
            for index, patch in enumerate(batch):
                level = levels[index] if levels[index] is not None else white_level(images[index])
                crops[patch] = glass_to_white(images[index][middle, middle], float(level))
        real = styles.real.images[:, middle, middle]
        raise_if_stopped(
            f"{self.out}: stopped; the patches are kept, run the same command with --resume"
        )
        verdict = judge(
            real,
            crops[chosen],
            styles.real.image_of,
            styles.style_of[chosen],
            TwoSampleSchedule(seed=self.config.seed, crop_px=middle.stop - middle.start),
            self.device,
            self.dtype,
        )
        weights = importance_weights(verdict, least_effective=LEAST_EFFECTIVE)
        effective = effective_share(weights)
        writer.replace_weights(weights_of_kept(weights, chosen, kept))
        low, high = verdict.interval()
        self._log({"auc": verdict.auc, "ci95": [low, high], "effective_share": effective})
        return {"auc": _number(verdict.auc), "effective_share": _number(effective)}

    def _numbers(self, batch: range, styles: _Styles) -> list[int]:
        """Return the record of each patch of a batch."""
        return [
            int(self.initial.reference[patch])
            if styles.own[patch]
            else styles.record_of[styles.style_of[patch]]
            for patch in batch
        ]


def _agreement(
    labels: npt.NDArray[np.int32],
    before: npt.NDArray[np.uint8],
    after: npt.NDArray[np.uint8],
    mpp: float,
) -> tuple[float, float]:
    """Return how well labels fit a patch, before and after refinement."""
    return label_agreement(labels, before, mpp), label_agreement(labels, after, mpp)


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None
