"""The models in the box: listed, found by name, and checked against their checksums."""

import hashlib
import json
from pathlib import Path

import pytest

from histocli.base.errors import InvalidOption, InvalidStore, StoreNotFound
from histocli.stores import box
from histocli.stores.box import (
    WEIGHTS,
    box_models,
    find_box_model,
    model_named,
    model_path,
    verify_box_model,
)
from histocli.stores.models import read_model_header


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A folder in the place of the package's own."""
    monkeypatch.setattr(box, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.fixture
def folder(empty):
    entries = []
    for name in "SM":
        (empty / f"{name}.safetensors").write_bytes(name.encode() * 10)
        digest = hashlib.sha256(name.encode() * 10).hexdigest()
        entries.append(
            {
                "name": name,
                "file": f"{name}.safetensors",
                "sha256": digest,
                "description": f"size {name}",
            }
        )
    (empty / "models.json").write_text(json.dumps({"default": "M", "models": entries}))
    return empty


def test_the_default_comes_first(folder):
    assert [(model.name, model.default) for model in box_models()] == [("M", True), ("S", False)]
    assert find_box_model().name == "M"
    assert find_box_model("S").path == folder / "S.safetensors"


def test_an_unknown_name_is_refused_with_those_that_there_are(folder):
    with pytest.raises(
        InvalidOption, match=r"XL: no such model comes with histosynth \(there are: M, S\)"
    ):
        find_box_model("XL")


def test_options_name_models_alike(folder):
    assert model_named("box") == folder / "M.safetensors"
    assert model_named("box:S") == folder / "S.safetensors"
    assert model_named("mine.safetensors") == Path("mine.safetensors")
    assert model_named("labels") is None
    assert model_path("labels") == Path("labels")
    with pytest.raises(InvalidOption, match="XL: no such model"):
        model_named("box:XL")


def test_an_empty_box(empty):
    assert box_models() == []
    with pytest.raises(InvalidOption, match="there are: none"):
        find_box_model()


def test_a_file_that_was_changed_or_lost_is_found_out(folder):
    for model in box_models():
        verify_box_model(model)
    (folder / "S.safetensors").write_bytes(b"something else")
    with pytest.raises(InvalidStore, match="is not the file it should be"):
        verify_box_model(find_box_model("S"))
    (folder / "S.safetensors").unlink()
    with pytest.raises(StoreNotFound, match="install histosynth again"):
        verify_box_model(find_box_model("S"))


@pytest.mark.parametrize("text", ["{", "{}", '{"default": "S", "models": [{"name": "S"}]}'])
def test_a_damaged_list_is_one_line(empty, text):
    (empty / "models.json").write_text(text)
    with pytest.raises(InvalidStore, match="the list of models is damaged") as error:
        box_models()
    assert "\n" not in str(error.value)


def test_what_comes_with_the_package_is_whole():
    models = box_models()
    assert [model.name for model in models if model.default] == ["S"]
    card = (WEIGHTS / "MODEL_CARD.md").read_text(encoding="utf-8")
    for model in models:
        verify_box_model(model)
        assert model.path.stat().st_size < 10_000_000
        header = read_model_header(model.path)
        assert header.shippable
        # synthetic patches, unlabelled images, and for S the model that taught it
        assert {entry["origin"] for entry in header.data} <= {"initial", "reference", "teacher"}
        assert header.pretrained == ("imagenet" if model.name == "T" else "none")
        assert f"`{model.name}`" in card
