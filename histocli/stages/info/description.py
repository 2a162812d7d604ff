"""What the kinds of stores have in common once they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histocli.base.types import Json, RGBImage
from histocli.config.info import InfoConfig
from histocli.stores.patches import ReferenceRecord
from histocli.stores.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a store, model or slide is, and what is in it."""

    kind: str
    """patches, labels, model or slide."""
    contents: Json
    """Counts, sizes, distributions."""
    provenance: Provenance | None = None
    """None for a slide, which is not ours."""
    references: Sequence[ReferenceRecord] = ()
    draw: Callable[[InfoConfig], RGBImage] | None = None
    """Draws a sheet; None where there is nothing to see."""


def megabytes(path: Path) -> float:
    """Return the size of a file, or of all files of a store."""
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 3)
