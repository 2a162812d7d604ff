"""Files that are made from a label store, during segmentation or later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from histocli.base.formats import FORMATS
from histocli.base.text import plain_json
from histocli.base.types import RGBImage
from histocli.exports.content import Content, SlidePixels
from histocli.exports.registry import WRITERS, read_record
from histocli.slides.resampling import shrunk
from histocli.slides.slide import Slide
from histocli.stores.labels import LabelStore
from histocli.stores.provenance import Provenance, peek
from histocli.stores.rerun import Action, rerun_rule

FACTS = ("mpp", "mpp_source", "n_nuclei", "n_cut", "mm2", "source", "model")
"""Keys of a label store's ``facts`` that every file made from the store repeats."""


def prepare_file(target: Path, *, contract: str, config_hash: str, overwrite: bool) -> Action:
    """Apply the rerun rule to a single file, which is created or skipped but never resumed.

    Raises ``StoreExists`` if another program made the file, or if it was made with other settings;
    ``overwrite`` replaces the latter.
    """
    return rerun_rule(
        target,
        contract=contract,
        config_hash=config_hash,
        finished=_provenance_of(target),
        overwrite=overwrite,
    )


def _provenance_of(target: Path) -> Provenance | None:
    """Return the provenance of a file, or of a store at the same path; None if there is none."""
    if (store := peek(target)) is not None:
        return store
    record = read_record(target)
    try:
        return None if record is None else Provenance.from_json(record, target)
    except ValueError:
        return None


def write_output(
    name: str,
    path: Path,
    store: LabelStore,
    open_pixels: Callable[[], Slide],
    provenance: Callable[[str], Provenance],
    *,
    window: tuple[slice, slice] | None = None,
    seed: int = 0,
) -> None:
    """Write one file.

    Parameters
    ----------
    name : str
        One of the formats that ``export`` writes.
    path : Path
    store : LabelStore
        Labels of a slide.
    open_pixels : callable
        Opens the slide; called only for formats that show its pixels.
    provenance : callable
        Returns the provenance of a file, given its contract (name and version of its layout).
    window : (slice, slice), optional
        The rows and columns to write, for formats that take a region.
    seed : int
        Seed of the choice of crops.
    """
    facts = {key: store.facts[key] for key in FACTS if key in store.facts}
    if window is not None:
        rows, columns = window
        facts["region"] = [rows.start, columns.start, rows.stop, columns.stop]
    # files are renamed into place when complete
    made_by = provenance(FORMATS[name].contract).to_json() | {"complete": True}
    content = Content(
        nuclei=store, open_pixels=lambda: _reading(open_pixels()), window=window, seed=seed
    )
    WRITERS[name](path, content, made_by | plain_json(facts))


@dataclass(frozen=True)
class _Pixels:
    """The pixels of a slide, for the writers of pictures."""

    slide: Slide

    def region(self, rows: slice, columns: slice) -> RGBImage:
        """Read a part of level 0."""
        return self.slide.read(0, rows, columns)

    def shrunk(self, factor: int) -> RGBImage:
        """Read the whole slide, averaged over blocks of ``factor`` x ``factor`` pixels."""
        return shrunk(self.slide, factor)


@contextmanager
def _reading(slide: Slide) -> Iterator[SlidePixels]:
    try:
        yield _Pixels(slide)
    finally:
        slide.close()
