"""What ``--show`` adds to a report: patches of stores, and trainings of models."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from histocli.base.errors import HistosynthError
from histocli.exports.pictures import jpeg_bytes
from histocli.figures.charts import Lines
from histocli.figures.overlays import add_scale_bar
from histocli.figures.sections import Charts, Gallery, Picture, Section
from histocli.figures.sheets import patch_sheet, picture_rows
from histocli.stages.shared.curves import learning_curves
from histocli.stages.shared.real_patches import Cutting, cut_real_patches
from histocli.stages.shared.references import identify_references, recorded_references
from histocli.stores.logs import read_metrics
from histocli.stores.models import read_model_header
from histocli.stores.patches import PatchStore

logger = logging.getLogger(__name__)

SHEET_PATCHES = 8
KINDS = ("initial", "refined", "labelled", "reference")
"""Kinds of patches, in the order of their sheets in the report."""


def check_shown(words: Sequence[str]) -> None:
    """Open each path, which raises an error unless it is a patch store or a model."""
    for word in words:
        if Path(word).is_dir():
            PatchStore.open(Path(word))
        else:
            read_model_header(Path(word))


def shown(words: Sequence[str]) -> Iterator[Section]:
    """Yield a gallery of sheets of patch stores, and charts of the training of models."""
    sheets: dict[str, Picture] = {}
    charts: list[Lines] = []
    for path in map(Path, words):
        if path.is_dir():
            store = PatchStore.open(path)
            sheets[str(path)] = _sheet(store)
            real = _reference_sheet(store)
            if real is not None:
                sheets.setdefault(real.title, real)
        else:
            read_model_header(path)
            charts += learning_curves(read_metrics(path), path.name)

    order = {f"{kind} patches": place for place, kind in enumerate(KINDS)}
    yield Gallery(
        title="Patches",
        pictures=sorted(
            sheets.values(), key=lambda sheet: order.get(sheet.caption.split(",")[0], len(order))
        ),
        columns=1,
        note="Patches, each beside its nuclei, and patches of the references that they follow.",
    )
    yield Charts(title="Training", charts=charts)


def _sheet(store: PatchStore) -> Picture:
    """Draw patches of a store, evenly spaced by number."""
    chosen = np.linspace(0, len(store) - 1, min(SHEET_PATCHES, len(store))).round().astype(int)
    read = [store.read(range(index, index + 1)) for index in map(int, chosen)]
    sheet = patch_sheet(
        [image[0] for image, _ in read], [labels[0] for _, labels in read], columns=4, mpp=store.mpp
    )
    return Picture(
        content=jpeg_bytes(sheet),
        title=str(store.path),
        caption=f"{store.origin} patches, {store.mpp:g} um/px",
    )


def _reference_sheet(store: PatchStore) -> Picture | None:
    """Draw patches of the references of a store; None where references cannot be read."""
    try:
        images = recorded_references(store)
        chosen = np.linspace(0, len(images) - 1, min(SHEET_PATCHES, len(images))).astype(int)
        sources, _ = identify_references(
            [images[index] for index in chosen],
            mpp=store.mpp,
            reference_mpp=None,
            tolerant=False,
            command="evaluate",
        )
        cutting = Cutting(store.mpp, store.patch_px, 1, 0)
        pictures = [each for one in sources for each in cut_real_patches(one, cutting).images]
    except HistosynthError as error:
        logger.warning("%s; the report shows no references", error)
        return None
    if not pictures:
        return None
    pictures[0] = add_scale_bar(pictures[0], store.mpp)
    # an even number of pictures is drawn as two rows beside each other
    half, odd = divmod(len(pictures), 2)
    rows = [pictures] if odd else [pictures[:half], pictures[half:]]
    return Picture(
        content=jpeg_bytes(picture_rows(rows)),
        title=", ".join(source.path.name for source in sources),
        caption=f"reference patches, {store.mpp:g} um/px",
    )
