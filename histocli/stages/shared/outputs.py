"""Files that are made from a label store, during segmentation or later."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from histocli.base.formats import FORMATS
from histocli.base.text import plain_json
from histocli.base.types import RGBImage
from histocli.config.drawing import OUTLINES, Drawing
from histocli.exports.content import Content, Window
from histocli.exports.registry import WRITERS, read_record
from histocli.slides.resampling import shrunk
from histocli.slides.slide import Slide
from histocli.stores.labels import LabelStore
from histocli.stores.provenance import Provenance, peek
from histocli.stores.rerun import Action, rerun_rule

# keys of a label store's ``facts`` that every file made from the store repeats
FACTS = (
    "mpp",
    "mpp_source",
    "n_nuclei",
    "n_cut",
    "mm2",
    "stain_distance",
    "far",
    "blurred_share",
    "ink_mm2",
    "source",
    "model",
)


def prepare_file(target: Path, *, contract: str, config_hash: str, overwrite: bool) -> Action:
    """Apply the rerun rule to a single file, which is created or skipped but never resumed.

    Raises ``StoreExists`` if another program made the file, or if it was made with other settings;
    ``overwrite`` replaces the latter.
    """
    found = _provenance_of(target)
    return rerun_rule(
        target, contract=contract, config_hash=config_hash, finished=found, overwrite=overwrite
    )


def _provenance_of(target: Path) -> Provenance | None:
    """Return the provenance of a file, or of a store at the same path; None if there is none."""
    try:
        return peek(target) or Provenance.from_json(read_record(target), target)
    except ValueError:  # nothing of ours
        return None


def write_output(
    name: str,
    path: Path,
    store: LabelStore,
    open_pixels: Callable[[], Slide],
    provenance: Callable[[str], Provenance],
    *,
    drawing: Drawing = OUTLINES,
    window: Window | None = None,
    seed: int = 0,
) -> None:
    """Write a file in a format of ``export``.

    ``open_pixels`` is called for files that show the slide, ``provenance`` with the contract of the
    format. ``drawing`` is for overlays, ``window`` for formats that take a region, ``seed`` for
    those that choose crops.
    """

    def read_windows(windows: Sequence[Window]) -> list[RGBImage]:
        with closing(open_pixels()) as slide:
            return [slide.read(0, *one) for one in windows]

    def read_shrunk(factor: int) -> RGBImage:
        with closing(open_pixels()) as slide:
            return shrunk(slide, factor)

    facts = {key: store.facts[key] for key in FACTS if key in store.facts}
    if window is not None:
        facts["region"] = [*(side.start for side in window), *(side.stop for side in window)]
    # A file that is in its place is complete.
    made_by = provenance(FORMATS[name].contract).to_json() | {"complete": True}
    content = Content(
        nuclei=store,
        read_windows=read_windows,
        read_shrunk=read_shrunk,
        window=window,
        seed=seed,
        colour=drawing.colour,
        thickness_px=drawing.thickness,
    )
    WRITERS[name](path, content, made_by | plain_json(facts))
