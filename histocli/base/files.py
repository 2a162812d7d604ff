"""Write files and folders that are whole or absent, and report disk errors in one line."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histocli.base.errors import InputNotFound, InvalidInput, OutOfResources, StoreExists

FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})  # disk or quota
CANNOT_WRITE = FULL | {
    errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG
}  # fmt: skip


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a full disk or an unwritable place into ``OutOfResources`` about ``path``.

    These are an OSError with a code in ``CANNOT_WRITE``, and exceptions that such an error caused.
    """
    try:
        yield
    except OutOfResources:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
                remedy = (
                    "free some space and run the command again to go on; "
                    "nothing that was finished is lost"
                    if cause.errno in FULL
                    else "choose another place with --out"
                )
                raise OutOfResources(
                    f"{path}: cannot be written ({cause.strerror or cause}); {remedy}"
                ) from error
            cause = cause.__cause__
        raise


def partial_path(target: Path) -> Path:
    """Return the path that is written until ``target`` is complete; ``StoreExists`` for ``.``."""
    if not target.name:
        raise StoreExists(
            f"{target}: is a folder that is there already; name the output itself with --out"
        )
    return target.with_name(f".{target.name}.partial")


def check_parents(target: Path) -> None:
    """Raise ``StoreExists`` if a file stands where a parent folder must be, before any work."""
    nearest = next(filter(os.path.lexists, target.parents), None)
    if nearest is not None and not nearest.is_dir():
        raise StoreExists(
            f"{target}: cannot be made, because {nearest} is a file; choose another --out"
        )


def make_parents(target: Path) -> None:
    """Create the folders above ``target``; ``StoreExists`` if one of them is a file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreExists(
            f"{target}: cannot be made, because part of {target.parent} is a file; "
            "choose another --out"
        ) from None


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield the path of a new file, which replaces ``target`` if the context ends without error.

    Raises
    ------
    OutOfResources
        The disk is full or the place cannot be written.
    StoreExists
        ``target`` is a folder.
    """
    if target.is_dir():
        raise StoreExists(
            f"{target}: is a folder and a file is to be written there; choose another --out"
        )
    # The process id keeps apart two processes that write the same target: the last file to be
    # complete stays.
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with disk_errors(target):
            make_parents(target)
            yield partial
            sync_file(partial)
            os.replace(partial, target)
            sync_file(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Ask the system to put a file or folder on the disk, where the file system can do that."""
    if path.is_dir() and os.name != "posix":
        return
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno in FULL or error.errno == errno.EIO:
                raise
        finally:
            os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Remove a folder, with retries while threads of a failed write may still add files."""
    for attempts_left in reversed(range(5)):
        try:
            shutil.rmtree(path)
            return
        except OSError as error:
            if not path.exists():
                return
            if not attempts_left or error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
            time.sleep(0.05)


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of all files of a store with their names.

    Raises
    ------
    InputNotFound
        The path does not exist.
    InvalidInput
        A file cannot be read.
    """
    try:
        if not path.is_dir():
            return _file_digest(path).hex()
        digest = hashlib.sha256()
        for file in filter(Path.is_file, sorted(path.rglob("*"))):
            digest.update(file.relative_to(path).as_posix().encode() + b"\0" + _file_digest(file))
        return digest.hexdigest()
    except FileNotFoundError:
        raise InputNotFound(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
