"""From arrays to patches, a model and scores, with what the command line makes of the same pixels.

Training is two steps long: every path is taken, and nothing is learnt.
"""

import gc

import numpy as np
import pytest
import tifffile

from histocli import (
    EvaluateConfig,
    Execution,
    GenerateConfig,
    PackConfig,
    Patches,
    RefineConfig,
    Segmenter,
    compare,
    evaluate,
    generate,
    pack,
    refine,
    train,
)
from histocli.base import errors
from histocli.cli.app import run
from tests.api.conftest import CPU, GENERATE, MPP, TRAIN

LABELS = np.zeros((64, 80), np.int32)
LABELS[5:20, 10:30], LABELS[30:50, 40:60], LABELS[0:4, 70:] = 1, 2, 3
BOTH = [LABELS, LABELS[::-1]]


def test_arrays_make_the_patches_that_files_make(pieces, patches, tmp_path):
    (tmp_path / "refs").mkdir()
    for number, piece in enumerate(pieces):
        # what is measured depends on the bytes of the file, so it is the file that arrays become
        path = tmp_path / "refs" / f"{number}.tif"
        tifffile.imwrite(path, piece, photometric="rgb", metadata=None)
    flags = "--n 8 --patch-px 64 --mpp 0.5 --reference-mpp 0.5 --device cpu --workers 1 -q"
    words = ["generate", str(tmp_path / "refs"), "-o", str(tmp_path / "a.zarr"), *flags.split()]
    assert run(words) == 0
    theirs = Patches(tmp_path / "a.zarr")
    assert np.array_equal(patches.images, theirs.images)
    assert np.array_equal(patches.labels, theirs.labels)
    assert patches.images.shape == (8, 64, 64, 3)
    assert patches.labels.dtype == np.int32
    assert (patches.mpp, patches.origin, len(patches)) == (MPP, "initial", 8)
    assert patches.weights.tolist() == [1.0] * 8
    image, labels = patches[-1]
    assert np.array_equal(image, patches.images[7])
    assert np.array_equal(labels, patches.labels[7])
    assert len(list(patches)) == 8
    assert patches.result.patches == 8


def test_what_is_finished_is_kept(pieces, patches, tmp_path):
    again = generate(pieces, patches.path, GENERATE, CPU)
    assert again.result.status == "skipped"
    with pytest.raises(errors.StoreExists, match="--overwrite"):
        generate(pieces[:1], patches.path, GENERATE, CPU)
    stack = np.stack(pieces)  # the same images in another form
    assert generate(stack, patches.path, GENERATE, CPU).result.status == "skipped"


def test_outputs_without_a_place_live_as_long_as_their_objects(pieces):
    drawn = generate(pieces[0], None, GenerateConfig(n=1, patch_px=64, reference_mpp=MPP), CPU)
    model = train(drawn, None, TRAIN, CPU)
    folders = [drawn.path.parent, model.path.parent]
    assert all(folder.is_dir() for folder in folders)
    assert model.segment(pieces[0], mpp=MPP).labels.shape == pieces[0].shape[:2]
    del drawn, model
    gc.collect()
    assert not any(folder.exists() for folder in folders)


def test_a_trained_model_segments_at_once(segmenter, pieces, tmp_path):
    assert segmenter.result.steps == 2
    assert segmenter.about["training"]
    assert segmenter.mpp == MPP
    found = segmenter.segment(pieces[0], mpp=MPP)
    again = Segmenter(segmenter, execution=CPU).segment(pieces[0], mpp=MPP)
    assert np.array_equal(found.labels, again.labels)


def test_training_takes_shares_and_references(patches, pieces, tmp_path):
    calls = []
    model = train(
        [patches, (patches, 2.0)],
        tmp_path / "m.safetensors",
        TRAIN,
        CPU,
        references=pieces,
        preview=tmp_path / "worst.png",
        progress=lambda *call: calls.append(call),
    )
    assert [entry["weight"] for entry in model.about["data"][:2]] == [1.0, 2.0]
    assert len(model.result.rounds) == 1
    assert any(name == "self-training 1" for name, _, _ in calls)


def test_refining_takes_arrays(patches, pieces, tmp_path):
    config = RefineConfig(steps=2, batch=2, weights=False, proof=0.0, reference_mpp=MPP)
    refined = refine(patches, tmp_path / "r.zarr", config, CPU, references=pieces)
    assert refined.origin == "refined"
    assert np.array_equal(refined.labels, patches.labels)
    with pytest.raises(errors.InputNotFound, match="gone"):  # the arrays were no files
        refine(patches, tmp_path / "s.zarr", config, CPU)


def test_labelled_arrays_become_patches(pieces, tmp_path):
    images = [piece[:64, :80] for piece in pieces]
    mine = pack(images, BOTH, tmp_path / "mine.zarr", PackConfig(patch_px=64, mpp=MPP), CPU)
    assert mine.origin == "labelled"
    assert mine.result.images == 2
    one = pack(images[0], LABELS, None, PackConfig(patch_px=64, mpp=MPP), CPU)
    assert one.result.images == 1
    inside = one.labels[0][:, :60]
    assert set(np.unique(inside[inside >= 0])) >= {0, 1, 2}
    with pytest.raises(errors.InvalidInput, match="2 images but 1 label"):
        pack(images, BOTH[:1], None, PackConfig(mpp=MPP), CPU)


def test_scores_of_arrays_are_those_of_files(tmp_path):
    for side, arrays in (("prediction", BOTH), ("truth", [np.roll(each, 1) for each in BOTH])):
        (tmp_path / side).mkdir()
        for number, array in enumerate(arrays):
            np.save(tmp_path / side / f"{number}.npy", array)
    config = EvaluateConfig(mpp=MPP, bootstrap=50)
    files = evaluate(tmp_path / "prediction", str(tmp_path / "truth"), config, CPU)
    arrays = evaluate(BOTH, [np.roll(each, 1) for each in BOTH], config, CPU)
    assert arrays.mean == pytest.approx(files.mean, nan_ok=True)
    assert 0 < arrays.mean["pq"] < 1
    assert [image.name for image in arrays.images] == ["0000", "0001"]
    assert (arrays.input, arrays.truth) == ("prediction", "truth")
    assert files.truth == str(tmp_path / "truth")


def test_the_same_labels_score_one_and_ignored_pixels_do_not_count():
    for labels in (LABELS, np.stack(BOTH), {"a": LABELS, "b": LABELS.T}):
        assert evaluate(labels, labels, EvaluateConfig(mpp=MPP), CPU).mean["pq"] == 1
    without = np.where(LABELS == 2, 0, LABELS)
    config = EvaluateConfig(mpp=MPP)
    assert evaluate(without, LABELS, config, CPU).mean["pq"] < 1
    mask = (LABELS == 2).astype(np.uint8)
    assert evaluate(without, LABELS, config, CPU, ignore=mask).mean["pq"] == 1
    unknown = np.where(LABELS == 2, -1, LABELS)
    assert evaluate(without, unknown, config, CPU).mean["pq"] == 1


def test_a_segmentation_brings_its_pixel_size(segmenter, pieces):
    found = segmenter.segment(pieces[0], mpp=MPP)
    result = evaluate(found, found.labels, None, CPU)
    assert result.images[0].pixel_size.mpp == MPP
    assert result.mean["dice"] == 1


def test_models_are_compared_by_name():
    shifted = [np.roll(each, 3) for each in BOTH]
    found = compare({"good": BOTH, "shifted": shifted}, BOTH, EvaluateConfig(mpp=MPP), CPU)
    assert [result.input for result in found.results] == ["good", "shifted"]
    (difference,) = found.differences
    assert (difference.first, difference.second) == ("good", "shifted")
    assert difference.metrics["pq"].mean < 0
    assert difference.metrics["pq"].worse == 2
    with pytest.raises(errors.InvalidOption, match="two predictions"):
        compare({"alone": BOTH}, BOTH)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: generate(np.zeros((9, 9, 3), np.uint8)), errors.UnknownPixelSize, "reference 0"),
        (lambda: generate(np.zeros((9, 9, 7), np.uint8), None, GENERATE), errors.InvalidInput, "7"),
        (lambda: generate([], None, GENERATE), errors.InvalidInput, "at least one"),
        (lambda: generate("absent", None, GENERATE), errors.InputNotFound, "absent"),
        (lambda: evaluate(LABELS / 2, LABELS), errors.InvalidInput, "whole numbers"),
        (lambda: evaluate([], LABELS), errors.InvalidInput, "at least one"),
        (lambda: evaluate(LABELS, LABELS.T), errors.InvalidInput, "pixels"),
        (lambda: evaluate({"../a": LABELS}, LABELS), errors.InvalidInput, "name of a file"),
        (lambda: evaluate(BOTH, LABELS), errors.InvalidInput, "1 and 2 label images"),
        (lambda: compare({"a": BOTH, "b": LABELS}, BOTH), errors.InvalidInput, "b and truth"),
        (lambda: Patches("absent.zarr"), errors.StoreNotFound, "absent"),
        (
            lambda: generate("x", None, None, Execution(dry_run=True)),
            errors.InvalidOption,
            "dry_run",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(call, kind, said):
    with pytest.raises(kind, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
