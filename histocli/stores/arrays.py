"""Arrays, file counts and the common writer of all Zarr stores of histosynth.

A partial store is an unfinished store, under a temporary name; a shard is a file of an array.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import zarr

from histocli.base.errors import InvalidStore
from histocli.base.files import disk_errors, partial_path
from histocli.base.text import first_line
from histocli.stores import rerun
from histocli.stores.provenance import (
    DAMAGED,
    METADATA_FILE,
    Provenance,
    peek,
    read_metadata,
    update_attribute,
)


def find_array(group: zarr.Group, name: str) -> zarr.Array[Any] | None:
    """Return an array of a store; None if it is missing or its metadata is damaged."""
    try:
        found = group[name]
    except (KeyError, ValueError, TypeError, OSError):
        return None
    return found if isinstance(found, zarr.Array) else None


@contextmanager
def readable(path: Path, array: str = "") -> Iterator[None]:
    """Turn the errors that Zarr raises for damaged chunks into ``InvalidStore``."""
    try:
        yield
    except InvalidStore:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        of = f" of {array}" if array else ""
        raise InvalidStore(
            f"{path}: a chunk{of} cannot be read ({first_line(error)}); {DAMAGED}"
        ) from error


def array_files(array: Path) -> Iterator[Path]:
    """Yield the files of an array's shards or chunks, in the order of their paths."""
    for parent, folders, names in os.walk(array / "c"):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def count_files(array: Path) -> list[int]:
    """Return the number and the total bytes of the files of an array."""
    sizes = [file.stat().st_size for file in array_files(array)]
    return [len(sizes), sum(sizes)]


def count_all_files(store: Path) -> dict[str, list[int]]:
    """Count the files of each array of a store, by the array's path in the store."""
    counts: dict[str, list[int]] = {}
    for folder, folders, names in os.walk(store):
        path = Path(folder)
        if METADATA_FILE in names and read_metadata(path)["node_type"] == "array":
            folders.clear()
            counts[path.relative_to(store).as_posix()] = count_files(path)
    return counts


def batches_of(n: int, size: int) -> list[range]:
    """Return the patches 0..n-1 in ranges of ``size``, one for each shard; the last is shorter."""
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


class StoreWriter:
    """Writes a partial store under a lock and renames it to ``target``; use as a context manager.

    Leaving the context before the store is finished keeps the partial store for the next run.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._partial = partial_path(target)
        self._lock = rerun.OutputLock(target)

    @contextmanager
    def _beginning(self) -> Iterator[None]:
        """Release the lock if creating or opening the partial store fails."""
        try:
            with disk_errors(self.target):
                yield
        except BaseException:
            self._lock.release()
            raise

    def _take_up(self, provenance: Provenance, *, is_whole: bool = True) -> zarr.Group | None:
        """Return the partial store if settings agree and it ``is_whole``; else remove it."""
        if is_whole and provenance.is_alike(peek(self._partial)):
            return zarr.open_group(self._partial, mode="r+", zarr_format=3, use_consolidated=False)
        rerun.remove_ours(self._partial, provenance.contract)
        return None

    def _put_in_place(self, arrays: list[str] | None = None) -> None:
        """Record file counts of ``arrays`` (default: all), mark the store complete, rename it."""
        with disk_errors(self.target):
            rerun.remove_temporaries(self._partial)
            counts = (
                count_all_files(self._partial)
                if arrays is None
                else {name: count_files(self._partial / name) for name in arrays}
            )
            update_attribute(self._partial, {"files": counts})
            rerun.finish(self._partial, self.target)
        self._lock.release()

    def close(self) -> None:
        """Release the lock; a partial store stays for the next run."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
