"""What all tests share."""

import os

import pytest
from hypothesis import settings

# A test says whether code is right, not whether this machine was busy; and it says the same every
# time.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk():
    """Leave files to the system: no test pulls the plug, and thousands of waits take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
