"""Errors that a user can cause, each with the exit code that the command line returns.

A message is one line that says what is wrong, where, which rule was broken and what to do. The
command line prints it without a traceback. Any other exception is a bug of histosynth: it keeps its
traceback, and the exit code is 1.
"""


class HistosynthError(Exception):
    """Base class of all errors that a user can cause."""

    exit_code = 1


class InvalidOption(HistosynthError, ValueError):
    """An option, or a combination of options, that makes no sense."""

    exit_code = 2


class InputNotFound(HistosynthError, FileNotFoundError):
    """A file, folder or store that should be there is not, or a list of inputs is empty."""

    exit_code = 3


class StoreNotFound(InputNotFound):
    """A store that should be there is not."""


class InvalidInput(HistosynthError, ValueError):
    """An input that cannot be read, or whose content breaks a rule."""

    exit_code = 3


class InvalidStore(InvalidInput):
    """A store that breaks its contract (the layout it declares), or with an unknown contract."""


class UnsupportedSlide(InvalidInput):
    """An image or slide of a kind that cannot be read."""


class UnknownPixelSize(InvalidInput):
    """The micrometres per pixel of an input are not given and not recorded in a usable way."""


class StoreExists(HistosynthError, FileExistsError):
    """An output exists: made with other settings, unfinished, or not made by this program."""

    exit_code = 4


class SomeFailed(HistosynthError):
    """Some items of a batch failed and the others are done."""

    exit_code = 5


class OutOfResources(HistosynthError):
    """No memory, no disk space or no device."""

    exit_code = 6


class DeviceUnavailable(OutOfResources, RuntimeError):
    """A device was asked for that this machine does not have."""


class GateNotMet(HistosynthError):
    """A threshold that the user set, such as ``--min pq=0.55``, was not reached."""

    exit_code = 7


class Stopped(HistosynthError):
    """The command was asked to stop; finished work is saved and the same command goes on."""

    exit_code = 75
