"""The line that says, when a command ends, what it has made."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from histocli.cli.bars import clock

Values: TypeAlias = dict[str, Any]  # a result in its JSON form


def ending(results: Sequence[Values], seconds: float) -> str | None:
    """Return the line for the results of a command that took ``seconds``.

    For example ``2,317 nuclei on 0.81 mm2 in 9 s -> out/x.ome.zarr``. Returns None where nothing
    was made and nothing was there already, or if the command has no such line.
    """
    made = [each for each in results if each.get("status") == "done"]
    there = [each for each in results if each.get("status") == "skipped"]
    if not made and len(there) == 1:
        name = there[0].get("output")
        return f"{name} is complete and was made with these settings: nothing to do"
    if not made and there:
        return (
            f"all {len(there):,} are complete and were made with these settings: nothing to do"
            f"{_place(there)}"
        )
    if not made:
        return None
    verb = str(made[0].get("schema", "")).partition("/")[0].removeprefix("histosynth.")
    if verb not in SENTENCES:
        return None
    line = f"{SENTENCES[verb](made)} in {clock(seconds)}{_place(made)}"
    return f"{line} ({len(there):,} more were there already)" if there else line


def counted(n: float, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: ``1 image``, ``2,317 nuclei``."""
    return f"{n:,.0f} {noun if n == 1 else plural or noun + 's'}"


def _total(results: Sequence[Values], key: str) -> float:
    return sum(each.get(key) or 0 for each in results)


def _nuclei(results: Sequence[Values]) -> str:
    return counted(_total(results, "nuclei"), "nucleus", "nuclei")


def _segment(made: Sequence[Values]) -> str:
    found = f"{_nuclei(made)} on {_total(made, 'mm2'):.3g} mm2"
    return found if len(made) == 1 else f"{found} of {counted(len(made), 'image')}"


def _generate(made: Sequence[Values]) -> str:
    (one,) = made
    patches = counted(one["patches"], "patch", "patches")
    return f"{patches} with {_nuclei(made)} like {counted(one['references'], 'reference')}"


def _refine(made: Sequence[Values]) -> str:
    (one,) = made
    steps = "" if one.get("steps") is None else f" after {counted(one['steps'], 'step')}"
    return f"{counted(one['patches'], 'patch', 'patches')} refined{steps}"


def _train(made: Sequence[Values]) -> str:
    (one,) = made
    line = f"{counted(one['steps'], 'step')} on {counted(one['patches'], 'patch', 'patches')}"
    score = (one.get("held_out") or {}).get("aji")
    return line if score is None else f"{line}, AJI {score:.2f} on held-out synthetic ones,"


def _pack(made: Sequence[Values]) -> str:
    (one,) = made
    patches = counted(one["patches"], "patch", "patches")
    return f"{patches} with {_nuclei(made)} of {counted(one['images'], 'image')}"


def _export(made: Sequence[Values]) -> str:
    stores = {each.get("input"): each for each in made}  # each may have been written several times
    return f"{counted(len(made), 'file')} with {_nuclei(list(stores.values()))}"


SENTENCES: dict[str, Callable[[Sequence[Values]], str]] = {
    "segment": _segment,
    "generate": _generate,
    "refine": _refine,
    "train": _train,
    "pack": _pack,
    "export": _export,
}
"""For each command the beginning of the line, from its results that were made."""


def _place(results: Sequence[Values]) -> str:
    """Return an arrow and the output, or the folder that holds all outputs."""
    outputs = [str(each["output"]) for each in results if each.get("output")]
    if not outputs:
        return ""
    if len(outputs) == 1:
        return f" -> {outputs[0]}"
    folders = {os.path.dirname(each) or "." for each in outputs}
    try:
        place = folders.pop() if len(folders) == 1 else os.path.commonpath(folders)
    except ValueError:  # on several drives, or relative beside absolute
        return f" -> {counted(len(folders), 'folder')}"
    return f" -> {place or '.'}{os.sep}"
