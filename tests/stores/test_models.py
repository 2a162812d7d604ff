"""Model files come back as they were written; pickles and damaged files are refused."""

import errno
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from histocli.base.errors import InvalidStore, OutOfResources, StoreExists, StoreNotFound
from histocli.stores import models
from histocli.stores.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from histocli.stores.models import ModelHeader, prepare_model_output, read_model


def header(**changes) -> ModelHeader:
    values = {
        "architecture": {"name": "unet", "widths": [8, 16]},
        "mpp": 0.5,
        "config_hash": "same",
        "thresholds": {"probability": np.float32(0.5)},
        "data": [{"name": "a.zarr", "sha256": "00", "weight": 2.0}],
        "shippable": False,
        "seed": 4,
    }
    return ModelHeader(**{**values, **changes})


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=generator)
    return {
        "weight": weight,
        "transposed": weight.T,
        "tied": weight,
        "half": weight.to(torch.bfloat16),
        "steps": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }


def write(path: Path, **changes) -> Path:
    models.write_model(path, tensors(), header(**changes))
    return path


def test_a_model_comes_back_as_it_was_written(tmp_path):
    path = write(tmp_path / "new" / "model.safetensors")
    found, values = read_model(path)
    assert found == header(thresholds={"probability": 0.5}, created=found.created)
    assert values.keys() == tensors().keys()
    for name, expected in tensors().items():
        assert values[name].dtype == expected.dtype
        assert torch.equal(values[name], expected)
    assert models.count_parameters(path) == sum(tensor.numel() for tensor in tensors().values())
    assert list(path.parent.iterdir()) == [path]


def test_a_header_is_read_without_torch(tmp_path):
    path = write(tmp_path / "model.safetensors")
    script = (
        "import sys; from pathlib import Path; from histocli.stores.models import "
        "read_model_header\n"
        "assert read_model_header(Path(sys.argv[1])).mpp == 0.5; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)


def test_other_tools_can_read_the_file(tmp_path):
    from safetensors import safe_open

    with safe_open(write(tmp_path / "model.safetensors"), framework="np") as file:
        assert json.loads(file.metadata()["histosynth"])["contract"] == "histosynth-model/1"
        assert file.get_tensor("weight").shape == (3, 5)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("reader", [read_model, models.read_model_header, read_checkpoint])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_unopened_whatever_its_name(tmp_path, reader, name, zipped):
    path = tmp_path / name
    torch.save({"weight": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidStore, match="opening a pickle can run any code") as caught:
        reader(path)
    assert caught.value.exit_code == 3
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InvalidStore, match="pickle"):
        reader(path)


@pytest.mark.parametrize("length", [0x80, 0x10080, 0x12380])
def test_a_header_whose_length_begins_with_0x80_is_no_pickle(tmp_path, length):
    """Its file begins with the byte 0x80, as pickles do."""
    path = tmp_path / "model.safetensors"
    text = json.dumps({"__metadata__": {"tool": "x"}}).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", length) + text)
    with pytest.raises(InvalidStore, match="carries no 'histosynth'"):
        read_model(path)


def rewrite_header(path: Path, change) -> None:
    """Apply ``change`` to our JSON in a model file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    values = json.loads(content[8 : 8 + length])
    ours = json.loads(values["__metadata__"]["histosynth"])
    values["__metadata__"]["histosynth"] = change(ours) or json.dumps(ours)
    text = json.dumps(values).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 0), "not a safetensors file, or is truncated"),
        (lambda path: cut(path, 6), "not a safetensors file, or is truncated"),
        (lambda path: cut(path, 100), "truncated"),
        (lambda path: cut(path, path.stat().st_size - 1), "truncated or damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "truncated or damaged"),
        (
            lambda path: path.write_text("a letter to a friend, long enough to be a header"),
            "not a safetensors file",
        ),
        (
            lambda path: rewrite_header(
                path, lambda ours: ours.update(contract="histosynth-model/9")
            ),
            "this version of",
        ),
        (
            lambda path: rewrite_header(
                path, lambda ours: ours.update(contract="histosynth-checkpoint/1")
            ),
            "is needed here",
        ),
        (lambda path: rewrite_header(path, lambda ours: "no json"), "header is damaged"),
        (lambda path: rewrite_header(path, lambda ours: "[]"), "header is damaged"),
        (
            lambda path: rewrite_header(path, lambda ours: ours.update(mpp=40)),
            "mpp of the header must lie",
        ),
        (
            lambda path: rewrite_header(
                path, lambda ours: ours.update(normalisation={"contrast_floor": -1})
            ),
            "contrast_floor",
        ),
        (
            lambda path: rewrite_header(
                path, lambda ours: ours.update(normalisation={"contrast_floor": "x"})
            ),
            "contrast_floor",
        ),
        (
            lambda path: rewrite_header(
                path, lambda ours: ours.update(normalisation={"stain_range": {"mean_low": [1, 2]}})
            ),
            "mean_low of stain_range",
        ),
        (
            lambda path: rewrite_header(
                path,
                lambda ours: ours.update(
                    normalisation={"stain_range": {"mean_low": [1, 1, 1], "mean_high": [2, 0.5, 2]}}
                ),
            ),
            "mean_low of stain_range of the header must not exceed",
        ),
        (
            lambda path: rewrite_header(
                path,
                lambda ours: ours.update(
                    normalisation={"known_stains": {"statistics": [[1, 2]], "limit": 1}}
                ),
            ),
            "known_stains of the header must hold six",
        ),
        (
            lambda path: rewrite_header(path, lambda ours: ours.update(mpp=None)),
            "mpp of the header is missing",
        ),
        (
            lambda path: rewrite_header(path, lambda ours: ours.pop("architecture") and None),
            "architecture of the header",
        ),
    ],
)
def test_each_rule_has_its_line(tmp_path, spoil, message):
    path = write(tmp_path / "model.safetensors")
    spoil(path)
    with pytest.raises(InvalidStore, match=message) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_file_gets_one_line(tmp_path):
    with pytest.raises(StoreNotFound, match="no such model"):
        read_model(tmp_path / "absent.safetensors")
    with pytest.raises(InvalidStore, match="is a folder"):
        read_model(tmp_path)
    with pytest.raises(StoreNotFound, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.safetensors")


def test_a_model_is_no_checkpoint_and_a_checkpoint_no_model(tmp_path):
    model = write(tmp_path / "model.safetensors")
    checkpoint = checkpoint_path(model)
    write_checkpoint(checkpoint, {}, config_hash="x")
    with pytest.raises(InvalidStore, match="but a checkpoint"):
        read_checkpoint(model)
    with pytest.raises(InvalidStore, match="but a model"):
        read_model(checkpoint)
    rewrite_header(checkpoint, lambda ours: ours.update(state=["tensor", "99"]))
    with pytest.raises(InvalidStore, match="checkpoint is damaged"):
        read_checkpoint(checkpoint)


def test_a_full_disk_keeps_the_model_that_was_there(tmp_path, monkeypatch):
    path = write(tmp_path / "model.safetensors")
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("histocli.base.files.sync_file", full)
    with pytest.raises(OutOfResources, match="free some space"):
        write(path, seed=5)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("model", "checkpoint", "options", "expected"),
    [
        (None, None, {}, "create"),
        (None, None, {"resume": True}, "create"),
        ("same", None, {}, "skip"),
        ("same", "same", {}, "skip"),
        ("same", "same", {"overwrite": True}, "create"),
        ("other", None, {}, "--overwrite"),
        ("other", "other", {}, "--overwrite"),
        ("other", None, {"overwrite": True}, "create"),
        (None, "same", {}, "create"),
        (None, "same", {"resume": True}, "resume"),
        (None, "same", {"overwrite": True}, "create"),
        (None, "other", {"resume": True}, "other settings"),
        (None, "other", {"overwrite": True}, "create"),
        (None, "damaged", {}, "create"),
        ("other", "same", {"resume": True}, "resume"),
        ("foreign", None, {"overwrite": True}, "left alone"),
        ("checkpoint", None, {"overwrite": True}, "left alone"),
    ],
)
def test_the_rerun_rule_of_model_files(tmp_path, model, checkpoint, options, expected):
    target = tmp_path / "model.safetensors"
    if model == "foreign":
        target.write_text("a letter")
    elif model == "checkpoint":
        write_checkpoint(target, {}, config_hash="same")
    elif model is not None:
        write(target, config_hash=model)
    if checkpoint is not None:
        write_checkpoint(checkpoint_path(target), {"step": 1}, config_hash=checkpoint)
    if checkpoint == "damaged":
        cut(checkpoint_path(target), 20)
    options = {"resume": False, "overwrite": False, **options}
    if expected in ("create", "resume", "skip"):
        assert prepare_model_output(target, config_hash="same", dry_run=True, **options) == expected
        assert checkpoint_path(target).exists() == (checkpoint is not None)
        assert prepare_model_output(target, config_hash="same", **options) == expected
        assert checkpoint_path(target).exists() == (checkpoint is not None and expected != "create")
    else:
        with pytest.raises(StoreExists, match=expected):
            prepare_model_output(target, config_hash="same", **options)


def test_a_model_below_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreExists, match="is a file"):
        prepare_model_output(
            tmp_path / "file" / "model.safetensors", config_hash="x", resume=False, overwrite=False
        )
