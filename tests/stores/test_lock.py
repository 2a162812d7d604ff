"""No two processes write the same output."""

import subprocess
import sys
import threading

import pytest

from histocli.base.errors import StoreExists
from histocli.stores.rerun import OutputLock


def test_the_lock_keeps_a_second_writer_out_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "new" / "folder" / "out.zarr"
    with OutputLock(target):
        with pytest.raises(StoreExists, match="another process"):
            OutputLock(target)
        script = (
            "import sys; from pathlib import Path; from histocli.stores.rerun import OutputLock\n"
            "try: OutputLock(Path(sys.argv[1]))\n"
            "except Exception as error: sys.exit(error.exit_code)"
        )
        assert (
            subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == 4
        )
    assert list(target.parent.iterdir()) == []
    OutputLock(target).release()


def test_the_lock_can_be_released_by_another_thread_and_twice(tmp_path):
    lock = OutputLock(tmp_path / "out.zarr")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    lock.release()
    OutputLock(tmp_path / "out.zarr").release()
