"""Every error a user can cause carries its documented exit code, and is what Python would raise."""

import pickle

import pytest

from histocli.base import errors

CODES = {
    "InvalidOption": (2, ValueError),
    "InputNotFound": (3, FileNotFoundError),
    "StoreNotFound": (3, errors.InputNotFound),
    "InvalidInput": (3, ValueError),
    "InvalidStore": (3, errors.InvalidInput),
    "UnsupportedSlide": (3, errors.InvalidInput),
    "UnknownPixelSize": (3, errors.InvalidInput),
    "StoreExists": (4, FileExistsError),
    "SomeFailed": (5, errors.HistosynthError),
    "OutOfResources": (6, errors.HistosynthError),
    "DeviceUnavailable": (6, RuntimeError),
    "GateNotMet": (7, errors.HistosynthError),
    "Stopped": (75, errors.HistosynthError),
}


def test_the_table_is_complete():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)} - {
        "HistosynthError"
    }
    assert classes == set(CODES)


@pytest.mark.parametrize("name", sorted(CODES))
def test_codes_kinds_and_messages(name):
    code, kind = CODES[name]
    error = getattr(errors, name)("a.zarr: is broken; mend it")
    assert error.exit_code == code
    assert isinstance(error, (errors.HistosynthError, kind))
    assert issubclass(type(error), kind)
    assert str(error) == "a.zarr: is broken; mend it"
    sent = pickle.loads(pickle.dumps(error))  # from a worker process
    assert (type(sent), str(sent)) == (type(error), str(error))
