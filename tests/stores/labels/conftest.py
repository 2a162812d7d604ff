"""No test pulls the plug, so none waits for the disk."""

import pytest

from histocli.base import files


@pytest.fixture(autouse=True, scope="module")
def quick_disk():
    """No test pulls the plug, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "sync_file", lambda path: None)
        yield
