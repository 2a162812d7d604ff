"""Turn words that name inputs into files: folders, globs, lists, stdin and manifests.

====================  ==========================================================================
word                  stands for
====================  ==========================================================================
``slide.svs``         the file itself, whether it can be read or not
``slides/``           every file below the folder with one of the suffixes, sorted
``'slides/*.tif'``    the files that match (``**`` crosses folders); matching folders as above
``@list.txt``         the paths in a text file, one a line
``-``                 the paths on stdin, one a line
``manifest.csv``      for images: the paths in the column ``path``, with optional pixel sizes in
                      ``mpp`` and files of regions in ``roi``
``patches.zarr``      the store as one input
====================  ==========================================================================

Relative paths in a list or a manifest count from the working folder or, if missing there, from the
folder of the list.
"""

import csv
import glob
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.units import MPP_RANGE, sane_mpp

STORE_SUFFIX = ".zarr"
ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
"""Files of which each Zarr group or array, of version 3 or 2, has one."""
MANIFEST_SUFFIX = ".csv"


@dataclass(frozen=True)
class InputImage:
    """An image to read, and its micrometres per pixel where a manifest gives them."""

    path: Path
    mpp: float | None = None
    roi: Path | None = None
    """File of the regions to segment, where a manifest names one."""


def expand_inputs(
    words: Sequence[str],
    *,
    suffixes: Collection[str],
    stdin: TextIO | None = None,
    what: str = "image",
    keep_missing: bool = False,
) -> list[Path]:
    """Return the files and stores that words name, each once, in the order of first mention.

    Parameters
    ----------
    words : sequence of str
        As in the table above, except that a manifest is returned as a file.
    suffixes : collection of str
        Suffixes of the files to take from folders and patterns, lower case with the dot, such as
        ``.png`` or ``.ome.tif``.
    stdin : text stream, optional
        The stream that ``-`` reads.
    what : str
        The noun in messages.
    keep_missing : bool
        Also return named files that do not exist, so that the caller can report them one by one
        (``--on-error continue``).

    Raises
    ------
    InputNotFound
        Nothing is named, a named file does not exist, or a folder or pattern gives no file.
    InvalidInput
        A list is not text, or a folder cannot be read.
    """
    search = _Search(suffixes, stdin, what, manifests=False)
    return [image.path for image in search.images(words, keep_missing)]


def expand_with_mpp(
    words: Sequence[str],
    *,
    suffixes: Collection[str],
    stdin: TextIO | None = None,
    what: str = "image",
    keep_missing: bool = False,
) -> list[InputImage]:
    """Return the images that words name, with the pixel sizes and regions that manifests give.

    Parameters and errors are those of :func:`expand_inputs`; ``InvalidInput`` is also raised for a
    manifest without the column ``path``, or with an ``mpp`` out of range.
    """
    return _Search(suffixes, stdin, what, manifests=True).images(words, keep_missing)


def has_suffix(path: Path, suffixes: Collection[str]) -> bool:
    """Tell whether a file name ends in one of the (double) suffixes, in any case."""
    return path.name.lower().endswith(tuple(suffixes))


def is_store(path: Path) -> bool:
    """Tell whether a path is a Zarr store, which counts as one input and is not searched."""
    return path.name.lower().endswith(STORE_SUFFIX) or any(
        (path / name).is_file() for name in ZARR_FILES
    )


@dataclass(frozen=True)
class _Search:
    """Finds the files that words name."""

    suffixes: Collection[str]
    stdin: TextIO | None
    what: str
    manifests: bool
    """Whether a file that ends in ``.csv`` is a manifest."""

    def images(self, words: Sequence[str], keep_missing: bool) -> list[InputImage]:
        """Return the images that all words name, each once."""
        found: dict[str, InputImage] = {}
        for word in words:
            for image in self._of_word(word):
                if not keep_missing and not os.path.lexists(image.path):
                    raise InputNotFound(f"{image.path}: no such {self.what}; check the path")
                found.setdefault(os.path.abspath(image.path), image)
        if not found:
            raise InputNotFound(
                f"no input: name at least one {self.what}, folder, 'pattern', @list or -"
            )
        return list(found.values())

    def _of_word(self, word: str) -> Iterator[InputImage]:
        what = self.what
        if word == "-":
            lines = _lines(self.stdin or ())
            if not lines:
                raise InputNotFound(
                    f"-: no input on stdin; one path of a {what} a line is expected"
                )
            for line in lines:
                yield from self._of_path(Path(line))
        elif word.startswith("@") and not os.path.lexists(word):
            list_file = Path(word[1:])
            lines = _lines_of_file(list_file, f"a list of {what}s")
            if not lines:
                raise InputNotFound(
                    f"{list_file}: no input, the list is empty; one path a line is expected"
                )
            for line in lines:
                yield from self._of_path(_beside(list_file, line))
        elif glob.has_magic(word) and not os.path.lexists(word):
            yield from self._of_pattern(word)
        elif not word:
            raise InputNotFound(
                f"an empty word names no {what}; is a variable of the calling script not set?"
            )
        else:
            if "://" in word:
                raise InputNotFound(
                    f"{word}: is an address; files and folders of this machine are read, so copy "
                    f"the {self.what} first"
                )
            yield from self._of_path(Path(word))

    def _of_path(self, path: Path) -> Iterator[InputImage]:
        if path.is_dir() and not is_store(path):
            files = self._below(path)
            if not files:
                raise InputNotFound(
                    f"{path}: no {self.what} in this folder; names must end in one of "
                    f"{', '.join(sorted(self.suffixes))}"
                )
            yield from map(InputImage, files)
        elif self.manifests and has_suffix(path, [MANIFEST_SUFFIX]):
            yield from self._of_manifest(path)
        else:
            yield InputImage(path)

    def _of_pattern(self, pattern: str) -> Iterator[InputImage]:
        parts = Path(pattern).parts
        fixed = sum(1 for _ in itertools.takewhile(lambda part: not glob.has_magic(part), parts))
        files: list[Path] = []
        for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=_parts):
            above = itertools.accumulate(path.parts, os.path.join)
            matched = [Path(name) for name in itertools.islice(above, fixed, None)]
            if any(map(_is_ours, matched)) or any(map(is_store, matched[:-1])):
                continue  # ``**`` also finds files inside stores and logs
            if path.is_dir() and not is_store(path):
                files += self._below(path)
            elif has_suffix(path, self.suffixes):
                files.append(path)
        if not files:
            raise InputNotFound(
                f"{pattern}: no {self.what} matches this pattern; names must end in one of "
                f"{', '.join(sorted(self.suffixes))}"
            )
        yield from map(InputImage, files)

    def _of_manifest(self, manifest: Path) -> Iterator[InputImage]:
        rows = csv.DictReader(_lines_of_file(manifest, "a manifest"), skipinitialspace=True)
        columns = [name.strip().lower() for name in rows.fieldnames or []]
        rows.fieldnames = columns
        if "path" not in columns:
            raise InvalidInput(
                f"{manifest}: a manifest needs the column path (and mpp where known), got "
                f"{', '.join(columns) or 'nothing'}"
            )
        is_empty = True
        for row in rows:
            is_empty = False
            line = f"{manifest}: line {rows.line_num}"
            if not (path := (row["path"] or "").strip()):
                raise InvalidInput(f"{line} names no path; remove the line or fill the column")
            mpp, roi = _mpp_of(row.get("mpp") or "", line), (row.get("roi") or "").strip()
            for image in replace(self, manifests=False)._of_path(_beside(manifest, path)):
                yield InputImage(image.path, mpp, _beside(manifest, roi) if roi else None)
        if is_empty:
            raise InputNotFound(
                f"{manifest}: no input, the manifest names no {self.what}; one a line is "
                "expected below the header"
            )

    def _below(self, folder: Path) -> list[Path]:
        """Return files and stores below a folder, sorted; links are followed, each folder once."""
        files: list[Path] = []
        visited: set[str] = set()

        def refuse(error: OSError) -> None:
            raise InvalidInput(
                f"{error.filename}: the folder cannot be read ({error.strerror}); "
                "check its permissions"
            ) from error

        for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
            real = os.path.realpath(parent)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            inside = [path for name in folders if not _is_ours(path := Path(parent, name))]
            folders[:] = [path.name for path in inside if not is_store(path)]
            stores = filter(is_store, inside)
            plain = [path for name in names if not _is_ours(path := Path(parent, name))]
            files += [path for path in (*stores, *plain) if has_suffix(path, self.suffixes)]
        return sorted(files, key=_parts)


def _mpp_of(text: str, where: str) -> float | None:
    if not text.strip():
        return None
    with suppress(ValueError):
        if mpp := sane_mpp(float(text)):
            return mpp
    raise InvalidInput(
        f"{where}: mpp must lie between {MPP_RANGE[0]} and {MPP_RANGE[1]} "
        f"micrometres per pixel, got {text!r}; leave it empty where it is not known"
    )


def _parts(path: Path) -> tuple[str, ...]:
    return path.parts


def _is_ours(path: Path) -> bool:
    """Tell whether a name is hidden, an unfinished output of this program, or a log folder."""
    return path.name.startswith(".") or path.name.endswith((".log", ".partial"))


def _beside(list_file: Path, line: str) -> Path:
    path = Path(line)
    beside = list_file.parent / path
    return beside if not os.path.lexists(path) and os.path.lexists(beside) else path


def _lines(stream: Iterable[str]) -> list[str]:
    """Return the lines that are not blank, without line ends."""
    try:
        stripped = [line.strip("\r\n") for line in stream]
    except UnicodeDecodeError:
        raise InvalidInput("-: what stdin holds is not text; one path a line is expected") from None
    return [line for line in stripped if line.strip()]


def _lines_of_file(path: Path, what: str) -> list[str]:
    try:
        return _lines(path.read_text(encoding="utf-8-sig").split("\n"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputNotFound(f"{path}: no such file; {what} was expected") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InvalidInput(
            f"{path}: is not a text file; {what} was expected, one path a line"
        ) from None
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
