"""Stores that a command has made, opened for callers who are no stage."""

from pathlib import Path

from histocli.stores.patches import PatchStore


def open_patches(path: Path) -> PatchStore:
    """Open a patch store; raise ``StoreNotFound``, or ``InvalidStore`` naming the broken rule."""
    return PatchStore.open(path)
