"""``histosynth models``: what comes with the package."""

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
    """Micrometres per pixel that it was trained at."""
    verified: bool | None
    """Whether its checksum was compared, and is right."""
    training: Json
    """What its header says about how it was made."""


def models(config: ModelsConfig) -> list[ModelsResult]:
    """Return the models that come with the package, the default one first.

    There is one only for ``path``, or where a name is given. Raises ``InvalidOption`` for an
    unknown name, ``StoreNotFound`` or ``InvalidStore`` for a file that is missing or damaged.
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
