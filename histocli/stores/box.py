"""The models that come with the package, so that a user need not train one to segment slides.

``histocli/weights``::

    trunk.safetensors     public weights of the frozen part of segmenters of size T, with which a
                          training begins (histocli.model.trunk, benchmarks/convert_trunk.py)
    models.json           {"trunk": {"file", "sha256", "origin", "licence"}, "default": name,
                           "models": [{"name", "file", "sha256", "description"}, ...]}
    <file>.safetensors    a model file as ``histosynth train`` makes it
    MODEL_CARD.md         training data, attribution, method, scores, intended use and limits
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.base.errors import InvalidOption, InvalidStore, StoreNotFound
from histocli.stores.tensors import read_tensors

if TYPE_CHECKING:
    import torch

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
LIST = "models.json"
TRUNK = "trunk.safetensors"


@dataclass(frozen=True)
class BoxModel:
    """A model that comes with the package."""

    name: str
    path: Path
    sha256: str
    description: str
    default: bool


def box_models() -> list[BoxModel]:
    """Return the models that come with the package, default first; none if there is no list."""
    file = WEIGHTS / LIST
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        found = [
            BoxModel(
                entry["name"],
                WEIGHTS / entry["file"],
                entry["sha256"],
                entry["description"],
                entry["name"] == listed["default"],
            )
            for entry in listed["models"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidStore(
            f"{file}: the list of models is damaged ({error}); install histosynth again"
        ) from error
    return sorted(found, key=lambda model: not model.default)


def find_box_model(name: str | None = None) -> BoxModel:
    """Return the model with a name, or the default; ``InvalidOption`` if there is no such model."""
    models = box_models()
    for model in models:
        if name in (None, model.name):
            return model
    known = ", ".join(model.name for model in models) or "none"
    raise InvalidOption(
        f"{name or 'default model'}: no such model comes with histosynth (there are: {known}); "
        "give a file with --model, as 'histosynth train' makes it"
    )


def model_named(word: str) -> Path | None:
    """Return the model that a word names, as a file or as ``box`` or ``box:NAME``, else None.

    Raises ``InvalidOption`` if no model of that name comes with the package.
    """
    if word == "box" or word.startswith("box:"):
        return find_box_model(word[4:] or None).path
    return Path(word) if word.endswith(".safetensors") else None


def model_path(word: str) -> Path:
    """Return the path of the model that an option names: as :func:`model_named`, or any path."""
    return model_named(word) or Path(word)


def read_trunk_weights() -> dict[str, torch.Tensor]:
    """Return the public weights of the trunk, named as in :class:`histocli.model.trunk.Trunk`.

    Raises ``InvalidStore`` if the file is damaged or missing.
    """
    return read_tensors(WEIGHTS / TRUNK)


def verify_box_model(model: BoxModel) -> None:
    """Raise ``StoreNotFound`` if a model's file is unreadable, ``InvalidStore`` if altered."""
    try:
        with model.path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StoreNotFound(
            f"{model.path}: cannot be read ({error.strerror}); install histosynth again"
        ) from error
    if found != model.sha256:
        raise InvalidStore(
            f"{model.path}: is not the file it should be (SHA-256 {found[:12]}...); "
            "install histosynth again"
        )
