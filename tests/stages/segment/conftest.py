"""What all tests of ``segment`` share."""

import pytest

from histocli.base import files
from tests.stages.segment.in_blocks import SMALL


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No test pulls the plug, so none waits for the disk."""
    monkeypatch.setattr(files, "sync_file", lambda path: None)


@pytest.fixture
def small(monkeypatch):
    """Windows, halos and shards so small that a small slide has many of them."""
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
