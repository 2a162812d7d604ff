"""Recognise errors of libraries that mean too little memory, a full disk or a failed device."""

import errno
import os
import re
from collections.abc import Iterator

from histocli.base.errors import OutOfResources

NO_ROOM = {
    code
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "ENOMEM", "EACCES", "EPERM", "EROFS")
    if (code := getattr(errno, name, None)) is not None
}
# NumPy reports a full disk in these words, and without an errno.
SHORT_WRITE = re.compile(r"requested and \d+ written")
DEVICE_LOST = re.compile(
    r"\b(CUDA|HIP|cuDNN|cuBLAS|NCCL|MPS) (driver |runtime |backend )?error", re.IGNORECASE
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of its cause and so on."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def out_of_resources(error: BaseException) -> OutOfResources | None:
    """Return an ``OutOfResources`` with advice for the user; None for an error of another kind.

    The chain of causes is searched too, because libraries wrap errors of the operating system.
    """
    for link in _causes(error):
        if isinstance(link, OutOfResources):
            return link
        if (missing := _what_is_missing(link)) is not None:
            return OutOfResources(missing)
    return None


def _what_is_missing(link: BaseException) -> str | None:
    """Return the message for one error of a chain; None where it is of another kind."""
    kind, message = type(link), str(link)
    elsewhere = "free some space, or write to another place with -o/--out"
    no_memory = isinstance(link, MemoryError) or kind.__name__ == "OutOfMemoryError"
    if no_memory or "can't allocate memory" in message:
        where = "GPU memory" if "CUDA" in message else "memory"
        advice = "use smaller tiles or batches, fewer --workers or another --device"
        return f"not enough {where}; {advice}"
    lost = isinstance(link, RuntimeError) and DEVICE_LOST.search(message)
    if lost or kind.__name__ == "AcceleratorError":
        said = message.strip().splitlines()[0] if message.strip() else kind.__name__
        advice = "what was saved is kept, run the command again to go on, or with --device cpu"
        return f"the device failed ({said}); {advice}"
    if kind.__name__ == "BrokenProcessPool":
        return "a worker process died, most often for lack of memory; use fewer --workers"
    if isinstance(link, OSError) and link.errno is None and SHORT_WRITE.search(message):
        return f"the disk is full ({message}); {elsewhere}"
    if isinstance(link, OSError) and link.errno in NO_ROOM:
        where = f"{os.fsdecode(link.filename)}: " if isinstance(link.filename, (str, bytes)) else ""
        return f"{where}{link.strerror or message}; {elsewhere}"
    return None
