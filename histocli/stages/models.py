"""``histosynth models``: the models that come with the package."""

from dataclasses import dataclass
from typing import ClassVar

from histocli.base.types import Json
from histocli.config.models import ModelsConfig
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.box import box_models, find_box_model, verify_box_model
from histocli.stores.models import read_model_header


@dataclass(frozen=True, kw_only=True)
class ModelsResult(StageResult):
    """One model that comes with the package."""

    schema: ClassVar[str] = "histosynth.models/1"

    name: str
    default: bool
    description: str
    sha256: str
    mpp: float
    """Micrometres per pixel of the patches that the model learnt from."""
    verified: bool | None
    """True where the checksum was compared and is right; None where it was not compared."""
    training: Json
    """Record of the training, from the header of the model file."""


def models(config: ModelsConfig) -> list[ModelsResult]:
    """Return the models that come with the package, the default one first.

    With the action ``path``, or with a name, the list holds one model. Raises ``InvalidOption`` for
    an unknown name, ``StoreNotFound`` or ``InvalidStore`` for a file that is missing, no model or
    of a wrong checksum.
    """
    watch = Stopwatch()
    is_one = config.name is not None or config.action == "path"
    found = []
    for model in [find_box_model(config.name)] if is_one else box_models():
        if config.action == "verify":
            verify_box_model(model)
        header = read_model_header(model.path)
        found.append(
            ModelsResult(
                output=str(model.path),
                status="done",
                seconds=watch.seconds,
                name=model.name,
                default=model.default,
                description=model.description,
                sha256=model.sha256,
                mpp=header.mpp,
                verified=True if config.action == "verify" else None,
                training=header.training,
            )
        )
    return found
