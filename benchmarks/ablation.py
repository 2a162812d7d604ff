"""Which component of the synthesis and of training helps: each switched off alone, and all off.

    python benchmarks/ablation.py --data DATA [--arms full,-pale,...] [--pools adapted,foreign]
    [--seeds 0] [--steps 600]

Arms
----
full       Everything on.
plain      Every component of the synthesis off.
-NAME      Full without one component: a field of ``Recipe`` (``-crowds``) or of ``Augmentation`` (``-jpeg``).
+NAME      Plain with one component of the synthesis on.
second     Full, with the priors of a model's nuclei (``--first WEIGHTS``, such as those of ``full``) instead of the rough ones.

Pools
-----
adapted    References: ``references/tcga`` and the images (not the labels) of all sets.
foreign    ``references/tcga`` and ``references/nuinsseg``: of the sets, only NuInsSeg shares a laboratory and is not scored.

Patches stay in memory, arms of training alone share them, and references are taken apart once
(``--work``). A row per arm, pool, set, seed, commit and steps is appended to ``--results``; rows
that exist are not made again, so the command can be stopped and repeated. Each run's weights and
its label-free scores stay in ``--work`` for ``benchmarks/selection.py``. Labels are read for
scoring only.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from accuracy import commit
from contrast import contrast_and_found, recall_by_contrast
from safetensors.torch import load_file, save_file

from histocli.base.memory import reuse_freed_memory
from histocli.base.parallel import map_unordered
from histocli.base.rng import rng_for
from histocli.base.system import available_cpus
from histocli.inference.predict import Predictor
from histocli.instances.targets import normalised_distance
from histocli.metrics.counts import count
from histocli.metrics.selection import choose_thresholds
from histocli.metrics.summary import summarise
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import architecture_of_size, build_segmenter
from histocli.optics.density import white_level
from histocli.reference.calibration import calibration_of, compare_areas
from histocli.reference.statistics import Reference, analyse_reference
from histocli.slides.open import read_image
from histocli.stores.scratch import load_arrays, save_arrays
from histocli.synthesis.patch import draw_patch, paint_patches
from histocli.synthesis.recipe import FULL_RECIPE, Recipe
from histocli.training.augmentation import Augmentation
from histocli.training.loop import Schedule, start_training, train_steps
from histocli.training.sampling import PatchSet

SETS = ("tnbc", "monuseg13", "pannuke", "dsb2018", "nuinsseg")
MPP = 0.25
PATCH_PX = 256
BATCH = 20
ROOT = Path(__file__).resolve().parent.parent
WITHOUT: dict[str, dict[str, Any]] = {
    "jpeg": {"jpeg": 0.0},
    "transfer": {"transfer": 0.0},
    "stain": {"stain_gain": 0.0, "stain_mixing": 0.0},
    "scale": {"scale": (1.0, 1.0)},
    "focus": {"blur_px": 0.31},
}
"""How each augmentation is switched off."""


@dataclass(frozen=True)
class Arm:
    """One setting."""

    recipe: Recipe
    augmentation: Augmentation


def arm_of(name: str) -> Arm:
    """Return the setting of an arm's name."""
    components = {field.name for field in fields(Recipe)}
    if name in ("full", "second"):
        return Arm(FULL_RECIPE, Augmentation())
    if name == "plain":
        return Arm(Recipe.plain(), Augmentation())
    sign, component = name[0], name[1:]
    if component in components and sign in "+-":
        return Arm(
            FULL_RECIPE.without(component)
            if sign == "-"
            else Recipe.plain().with_component(component),
            Augmentation(),
        )
    if component in WITHOUT and sign == "-":
        return Arm(FULL_RECIPE, replace(Augmentation(), **WITHOUT[component]))
    raise SystemExit(f"arm {name!r} is not known")


def arms() -> list[str]:
    """Return all arms, the most telling first."""
    return [
        "full",
        "plain",
        *(f"-{field.name}" for field in fields(Recipe)),
        *(f"-{name}" for name in WITHOUT),
    ]


def images_of(data: Path, pool: str) -> list[Path]:
    """Return the unlabelled images of a pool."""
    folders = [data / "references" / "tcga"]
    folders += (
        [data / "references" / "nuinsseg"]
        if pool == "foreign"
        else [data / "dev" / name / "images" for name in SETS]
    )
    return [path for folder in folders for path in sorted(folder.glob("*.png"))]


def analyse(job: tuple[Path, Path]) -> None:
    """Take a reference apart."""
    path, folder = job
    pixels = read_image(path).pixels
    save_arrays(
        folder, *analyse_reference(pixels, MPP, path.name, rng_for(0, path.name)).to_arrays()
    )


@dataclass(frozen=True)
class Draw:
    """Some patches to draw."""

    indices: tuple[int, ...]
    folders: tuple[Path, ...]
    recipe: Recipe
    seed: int


Drawn = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.uint8]]


def draw(job: Draw) -> Drawn:
    """Draw patches: images with white glass, labels, distances."""
    references = [Reference.from_arrays(*load_arrays(folder)) for folder in job.folders]
    drawings = [
        draw_patch(reference, PATCH_PX, rng_for(job.seed, "patch", index), job.recipe)
        for index, reference in zip(job.indices, references, strict=True)
    ]
    images = paint_patches(drawings, torch.device("cpu"))
    white = [
        glass_to_white(image, reference.statistics.appearance.white_level)
        for image, reference in zip(images, references, strict=True)
    ]
    labels = np.stack([drawing.instance_labels for drawing in drawings])
    return np.stack(white), labels, np.stack([normalised_distance(label) for label in labels])


def patches_of(folders: list[Path], recipe: Recipe, n: int, seed: int) -> PatchSet:
    """Draw all patches of one arm in memory."""
    order = np.concatenate(
        [
            rng_for(seed, "order", turn).permutation(len(folders))
            for turn in range(-(-n // len(folders)))
        ]
    )[:n]
    starts = range(0, n, BATCH)
    jobs = [
        Draw(
            tuple(range(i, min(i + BATCH, n))),
            tuple(folders[k] for k in order[i : i + BATCH]),
            recipe,
            seed,
        )
        for i in starts
    ]
    images = np.empty((n, PATCH_PX, PATCH_PX, 3), np.uint8)
    labels = np.empty((n, PATCH_PX, PATCH_PX), np.int32)
    distance = np.empty((n, PATCH_PX, PATCH_PX), np.uint8)
    for job, drawn in map_unordered(draw, jobs, available_cpus(), "stopped"):
        here = list(job.indices)
        images[here], labels[here], distance[here] = drawn
    return PatchSet(
        images, labels > 0, labels >= 0, distance, np.ones(n, np.float32), np.full(n, 1 / n)
    )


def train(
    patches: PatchSet, arm: Arm, steps: int, seed: int, size: str, batch: int
) -> tuple[Predictor, float]:
    """Train for a number of steps; returns the network and its last loss."""
    torch.manual_seed(seed)
    segmenter = build_segmenter(architecture_of_size(size)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = Schedule(
        batch=batch, crop_px=128, learning_rate=3e-3, seed=seed, augmentation=arm.augmentation
    )
    training = start_training(segmenter, schedule)
    losses = [
        record.loss
        for record in train_steps(
            training, patches, schedule, lambda step: step / steps, torch.bfloat16
        )
    ]
    predictor = Predictor(
        training.segmenter, mpp=MPP, device=torch.device("cpu"), dtype=torch.bfloat16
    )
    return predictor, float(np.mean(losses[-50:]))


def segment(predictor: Predictor, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Segment a whole image, its glass made white."""
    return predictor.segment(glass_to_white(image, white_level(image)))


def dev_images(
    data: Path, name: str
) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
    """Yield image and truth of a set."""
    for path in sorted((data / "dev" / name / "images").glob("*.png")):
        truth = tifffile.imread(data / "dev" / name / "labels" / f"{path.stem}.tif").astype(
            np.int32
        )
        yield read_image(path).pixels, truth


def score(data: Path, name: str, predictor: Predictor) -> dict[str, Any]:
    """Score one set."""
    counts, parts, matched = [], [], np.zeros(2)
    for image, truth in dev_images(data, name):
        prediction = segment(predictor, image)
        counts.append(count(truth, prediction))
        contrast, found = contrast_and_found(image, truth, prediction)
        parts.append((contrast, found))
        matched += (found.sum(), prediction.max())
    summary = summarise(counts)
    recall = recall_by_contrast(parts)
    return {
        "mean": {key: round(value, 4) for key, value in summary.mean.items() if value == value},
        "recall_by_contrast": [round(value, 3) for value in recall],
        "precision": round(float(matched[0] / max(matched[1], 1)), 3),
        "per_image": [
            [round(value, 3) for value in (item.aji, item.panoptic_quality)] for item in counts
        ],
    }


def main() -> None:
    """Fill in the rows that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with references/ and dev/")
    parser.add_argument("--arms", default=",".join(arms()))
    parser.add_argument("--pools", default="adapted,foreign")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--n", type=int, default=1000, help="patches")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="S")
    parser.add_argument(
        "--first", type=Path, help="weights whose nuclei are the priors of the arm 'second'"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "ablation")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "ablation.jsonl"
    )
    options = parser.parse_args()
    reuse_freed_memory()
    state = commit()
    rows = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results.exists()
        else []
    )
    kept: tuple[tuple[Recipe, str, int], PatchSet] | None = None
    common = {
        "commit": state,
        "steps": options.steps,
        "n": options.n,
        "size": options.size,
        "batch": options.batch,
    }
    for seed in map(int, options.seeds.split(",")):
        for pool in options.pools.split(","):
            scored = [name for name in SETS if pool == "adapted" or name != "nuinsseg"]
            for name in options.arms.split(","):
                key = {"arm": name, "pool": pool, "seed": seed} | common
                done = {
                    row["set"]
                    for row in rows
                    if all(row.get(field) == value for field, value in key.items())
                }
                if done >= set(scored):
                    continue
                arm, started = arm_of(name), time.monotonic()
                folders = references(options.data, pool, options.work / f"references-{state}")
                if name == "second":
                    tag = f"second-{options.first.stem}-{pool}"
                    folders = second_references(
                        folders, options.data, pool, options.first, options.work / tag
                    )
                    kept = None
                if kept is None or kept[0] != (arm.recipe, pool, seed):
                    kept = (
                        (arm.recipe, pool, seed),
                        patches_of(folders, arm.recipe, options.n, seed),
                    )
                drawn = time.monotonic()
                predictor, loss = train(
                    kept[1], arm, options.steps, seed, options.size, options.batch
                )
                trained = time.monotonic()
                weights = (
                    options.work
                    / "models"
                    / f"{name}-{pool}-{seed}-{state}-{options.steps}-{options.batch}-{options.size}.safetensors"
                )
                weights.parent.mkdir(parents=True, exist_ok=True)
                save_file(
                    {
                        key: value.contiguous()
                        for key, value in predictor.segmenter.state_dict().items()
                    },
                    weights,
                )
                about = {
                    "loss": round(loss, 4),
                    "draw_s": round(drawn - started, 1),
                    "train_s": round(trained - drawn, 1),
                }
                options.results.parent.mkdir(parents=True, exist_ok=True)
                for dataset in scored:
                    row = key | {"set": dataset} | score(options.data, dataset, predictor) | about
                    with options.results.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")
                    rows.append(row)
                table(
                    [
                        row
                        for row in rows
                        if all(row.get(field) == value for field, value in key.items())
                    ]
                )
    print()
    print(
        report(
            [row for row in rows if all(row.get(field) == value for field, value in common.items())]
        ),
        "\n",
    )
    table([row for row in rows if all(row.get(field) == value for field, value in common.items())])


def references(data: Path, pool: str, work: Path) -> list[Path]:
    """Take the references of a pool apart, those that are not yet; returns their folders."""
    wanted = [
        (path, work / path.parent.parent.name / path.parent.name / path.stem)
        for path in images_of(data, pool)
    ]
    missing = [(path, folder) for path, folder in wanted if not (folder / "about.json").exists()]
    for _ in map_unordered(analyse, missing, available_cpus(), "stopped"):
        pass
    return [folder for _, folder in wanted]


def second_references(
    first: list[Path], data: Path, pool: str, weights: Path, work: Path
) -> list[Path]:
    """Take the references apart again, by the nuclei that a model finds in them; its errors are
    known from synthetic patches.
    """
    segmenter = build_segmenter(architecture_of_size(weights.stem.rsplit("-", 1)[1]))
    segmenter.load_state_dict(load_file(weights))
    predictor = Predictor(segmenter, mpp=MPP, device=torch.device("cpu"), dtype=torch.bfloat16)
    drawings = [
        draw_patch(
            Reference.from_arrays(*load_arrays(first[index * 7 % len(first)])),
            PATCH_PX,
            rng_for(0, "calibration", index),
        )
        for index in range(64)
    ]
    images = [
        glass_to_white(image, drawing.white)
        for image, drawing in zip(
            paint_patches(drawings, torch.device("cpu")), drawings, strict=True
        )
    ]
    truths = [drawing.instance_labels for drawing in drawings]
    maps = [predictor.maps(image[None])[0] for image in images]
    # what ``train`` does with its held-out patches: doubtful objects are no priors
    found = [predictor.instances(each) for each in maps]
    chosen = choose_thresholds(truths, found, [each[..., 0] for each in maps], MPP)
    predictor.thresholds = replace(
        predictor.thresholds, confidence=chosen.confidence, smallest_um2=chosen.smallest_um2
    )
    ratios: list[float] = []
    n_found = n_drawn = 0
    for truth, each in zip(truths, maps, strict=True):
        areas, here, drawn = compare_areas(truth, predictor.instances(each))
        ratios, n_found, n_drawn = ratios + areas, n_found + here, n_drawn + drawn
    calibration = calibration_of(ratios, n_found, n_drawn)
    print(
        f"confidence {chosen.confidence}, calibration: area {calibration.area_factor:.3f}, recall {calibration.recall:.3f}",
        flush=True,
    )
    folders = []
    for path in images_of(data, pool):
        folder = work / path.parent.parent.name / path.parent.name / path.stem
        folders.append(folder)
        if (folder / "about.json").exists():
            continue
        pixels = read_image(path).pixels
        nuclei = segment(predictor, pixels)
        rng = rng_for(0, path.name)
        reference = analyse_reference(
            pixels, MPP, path.name, rng, predicted=nuclei, calibration=calibration
        )
        save_arrays(folder, *reference.to_arrays())
    return folders


def differences(full: list[dict[str, Any]], other: list[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Bootstrap the mean over sets of the paired difference of AJI and PQ, other minus full; shape
    (3, 2): mean, low, high.
    """
    rng = rng_for(0, "bootstrap")
    by_set: dict[str, list[npt.NDArray[np.float64]]] = {}
    for name in {row["set"] for row in other}:
        for seed in {row["seed"] for row in other}:
            pair = [
                [row for row in side if (row["set"], row["seed"]) == (name, seed)]
                for side in (full, other)
            ]
            if all(pair):
                by_set.setdefault(name, []).append(
                    np.array(pair[1][-1]["per_image"]) - np.array(pair[0][-1]["per_image"])
                )
    of_sets = [np.mean(seeds, axis=0) for seeds in by_set.values()]
    draws = [
        np.mean(
            [part[rng.integers(len(part), size=len(part))].mean(axis=0) for part in of_sets], axis=0
        )
        for _ in range(1000)
    ]
    mean = np.mean([part.mean(axis=0) for part in of_sets], axis=0)
    return np.stack([mean, *np.percentile(draws, [2.5, 97.5], axis=0)])


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows of one commit as a table in Markdown, each arm against full."""
    lines = [
        "| arm | pool | seeds | AJI | PQ | difference of AJI | of PQ | worst set | lowest third | precision |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pool in ("adapted", "foreign"):
        mine = [row for row in rows if row["pool"] == pool]
        full = [row for row in mine if row["arm"] == "full"]
        for arm in dict.fromkeys(row["arm"] for row in mine):
            part = [row for row in mine if row["arm"] == arm]
            aji, pq = (float(np.mean([row["mean"][key] for row in part])) for key in ("aji", "pq"))
            mean, low, high = differences(full, part) if full else np.zeros((3, 2))
            gaps = [
                f"{mean[k]:+.3f} ({low[k]:+.3f} to {high[k]:+.3f})" if arm != "full" else ""
                for k in (0, 1)
            ]
            worst = min(part, key=lambda row: row["mean"]["aji"])
            third = np.mean([row["recall_by_contrast"][0] for row in part])
            precision = np.mean([row["precision"] for row in part])
            seeds = ",".join(str(seed) for seed in sorted({row["seed"] for row in part}))
            lines.append(
                f"| {arm} | {pool} | {seeds} | {aji:.3f} | {pq:.3f} | {gaps[0]} | {gaps[1]} | {worst['set']} "
                f"{worst['mean']['aji']:.3f} | {third:.2f} | {precision:.2f} |"
            )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> None:
    """Print AJI / PQ and the recall of the palest third, an arm a line."""
    for arm, pool, seed in sorted({(row["arm"], row["pool"], row["seed"]) for row in rows}):
        mine = {
            row["set"]: row
            for row in rows
            if (row["arm"], row["pool"], row["seed"]) == (arm, pool, seed)
        }
        cells = [
            f"{name} {row['mean']['aji']:.3f}/{row['mean']['pq']:.3f}/{row['recall_by_contrast'][0]:.2f}"
            for name, row in mine.items()
        ]
        mean = np.mean([[row["mean"]["aji"], row["mean"]["pq"]] for row in mine.values()], axis=0)
        print(
            f"{arm:16s} {pool} {seed} mean {mean[0]:.4f}/{mean[1]:.4f}  " + "  ".join(cells),
            flush=True,
        )


if __name__ == "__main__":
    main()
