"""Reading and checking label stores of both layouts."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.errors import InvalidStore
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import BoolMask, Json, RGBImage
from histocli.stores.arrays import count_files, find_array, readable
from histocli.stores.labels.layout import CONTRACT, LABELS, LAYOUTS, TABLE, Labels
from histocli.stores.labels.table import REQUIRED_COLUMNS
from histocli.stores.provenance import DAMAGED, open_group


class LabelStore:
    """A complete label store of either layout, opened for reading and checked.

    Methods that return NumPy arrays raise ``InvalidStore`` where a chunk is damaged.

    Attributes
    ----------
    layout : {"slide", "patches"}
    mpp : float
        Micrometres per pixel of level 0, the finest resolution.
    n_nuclei : int
        Number of nuclei in all label images.
    facts : dict
        The attribute ``histosynth`` of the store: mpp_source, mm2, source, model, ...
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group, self.provenance = open_group(path, CONTRACT)
        attributes: Json = dict(self._group.attrs.asdict())
        self.facts: Json = attributes[ATTRIBUTE]
        _check_facts(path, self.facts)
        self.layout: str = self.facts["layout"]
        self.mpp = float(self.facts["mpp"])
        self._levels = self._find_levels()
        self.n_nuclei = self._checked_count()

    def __len__(self) -> int:
        """Number of label images: 1 for a slide, the number of patches otherwise."""
        return 1 if self.layout == "slide" else int(self._levels[0].shape[0])

    @property
    def n_levels(self) -> int:
        """Number of resolutions; patches have one."""
        return len(self._levels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a label image at level 0."""
        return int(self._levels[0].shape[-2]), int(self._levels[0].shape[-1])

    def labels(self, level: int = 0) -> Labels:
        """Read all labels of one level, shape (H, W), or (n, H, W) for patches."""
        return self._read(self._levels[level])

    def level(self, number: int) -> zarr.Array[Any]:
        """Return the unread label array of a level; slicing it reads a region."""
        return self._levels[number]

    def label_image(self, index: int = 0) -> Labels:
        """Read one label image, uint32, shape (H, W): patch ``index``; of a slide only 0."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.labels() if self.layout == "slide" else self._read(self._levels[0], index)

    def window(self, rows: slice, columns: slice) -> Labels:
        """Read a part of level 0 of a slide, uint32; several threads may call this at a time."""
        return self._read(self._levels[0], (rows, columns))

    @property
    def columns(self) -> dict[str, zarr.Array[Any]]:
        """The unread columns of the table of a slide, by name; slicing one reads rows."""
        rows = self._group.get(TABLE)
        if not isinstance(rows, zarr.Group):
            raise InvalidStore(f"{self.path}: has no table {TABLE}; {DAMAGED}")
        return dict(sorted(rows.arrays()))

    @property
    def table(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the table of a slide, rows ordered by id; empty for patches."""
        if self.layout == "patches":
            return {}
        return {name: self._read(array) for name, array in self.columns.items()}

    @property
    def tissue(self) -> BoolMask:
        """True where a slide was segmented, shape (H, W): one value per overview pixel."""
        return self._read(self._array("tissue")).astype(bool)

    def overview(self) -> RGBImage:
        """Read the finest RGB overview of a slide, uint8, shape (H, W, 3)."""
        return np.ascontiguousarray(np.moveaxis(self._read(self._array("0")), 0, 2))

    def _read(self, array: zarr.Array[Any], where: Any = ...) -> npt.NDArray[Any]:
        with readable(self.path, array.path):
            return np.asarray(array[where])

    def _array(self, name: str) -> zarr.Array[Any]:
        array = find_array(self._group, name)
        if array is None:
            raise InvalidStore(f"{self.path}: has no array {name}; {DAMAGED}")
        return array

    def _find_levels(self) -> list[zarr.Array[Any]]:
        if self.layout == "patches":
            return [self._checked_labels("instance_labels", 3)]
        levels = [self._checked_labels(f"{LABELS}/0", 2)]
        while (self.path / LABELS / str(len(levels))).is_dir():
            levels.append(self._checked_labels(f"{LABELS}/{len(levels)}", 2))
        return levels

    def _checked_labels(self, name: str, ndim: int) -> zarr.Array[Any]:
        array = self._array(name)
        if array.ndim != ndim or array.dtype != np.uint32:
            raise InvalidStore(
                f"{self.path}: {name} must be uint32 with {ndim} axes, "
                f"got {array.dtype} with {array.ndim}; {DAMAGED}"
            )
        return array

    def _checked_count(self) -> int:
        count = self.facts.get("n_nuclei")
        if not isinstance(count, int) or count < 0:
            raise InvalidStore(
                f"{self.path}: histosynth.n_nuclei must be a count, got {count!r}; {DAMAGED}"
            )
        for name in REQUIRED_COLUMNS if self.layout == "slide" else ():
            rows = self._array(f"{TABLE}/{name}").shape[0]
            if rows != count:
                raise InvalidStore(
                    f"{self.path}: {TABLE}/{name} has {rows} rows for {count} nuclei; {DAMAGED}"
                )
        return count


def open_labels(path: Path | str) -> LabelStore:
    """Open a label store of either layout and check everything that does not need the pixels.

    Raises ``StoreNotFound``, or ``InvalidStore`` naming the rule that is broken.
    """
    return LabelStore(Path(path))


def _check_facts(path: Path, facts: Json) -> None:
    """Check the attribute ``histosynth`` of a store, and the number and bytes of its files.

    The count is needed because Zarr reads a missing shard as background without an error.
    """
    layout, mpp, recorded = (facts.get(name) for name in ("layout", "mpp", "files"))
    if layout not in LAYOUTS:
        raise InvalidStore(
            f"{path}: histosynth.layout must be one of {', '.join(LAYOUTS)}, "
            f"got {layout!r}; {DAMAGED}"
        )
    if not isinstance(mpp, int | float) or not mpp > 0:
        raise InvalidStore(
            f"{path}: histosynth.mpp must be a pixel size in micrometres, got {mpp!r}; {DAMAGED}"
        )
    if not isinstance(recorded, dict):
        raise InvalidStore(
            f"{path}: histosynth.files must list the arrays, got {recorded!r}; {DAMAGED}"
        )
    for name, expected in recorded.items():
        if (found := count_files(path / name)) != expected:
            raise InvalidStore(
                f"{path}: array {name} holds {found[0]} files of {found[1]} bytes, but {expected} "
                "were written; some are missing or truncated; make it again with --overwrite"
            )
