"""Files are replaced whole or not at all, and a disk that takes nothing is one line."""

import errno
from pathlib import Path

import pytest

from histocli.base.errors import OutOfResources, StoreExists
from histocli.base.files import disk_errors, replace_atomically


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_does_not_take_it_is_exit_6(number):
    with (
        pytest.raises(OutOfResources, match=r"out\.zarr: cannot be written") as caught,
        disk_errors(Path("out.zarr")),
    ):
        raise OSError(number, "what the system says")
    assert caught.value.exit_code == 6


def test_a_full_disk_is_recognised_behind_another_exception():
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutOfResources, match="free some space"), disk_errors(Path("out.zarr")):
        raise RuntimeError("the codec failed") from full


def test_other_errors_pass_through_disk_errors():
    with pytest.raises(ZeroDivisionError), disk_errors(Path("out.zarr")):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), disk_errors(Path("out.zarr")):
        raise FileNotFoundError(errno.ENOENT, "No such file")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "model"

    def write(text: str, error: BaseException | None = None) -> None:
        with replace_atomically(target) as partial:
            partial.write_text(text)
            if error is not None:
                raise error

    write("zero")
    write("one")
    with pytest.raises(OutOfResources):
        write("tw", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        write("t", KeyboardInterrupt())
    assert target.read_text() == "one"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(StoreExists, match="is a folder"), replace_atomically(target.parent):
        pass
