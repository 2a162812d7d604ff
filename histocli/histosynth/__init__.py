"""Another name of :mod:`histocli`, so that ``import histosynth`` works too; see pyproject.toml."""

from typing import TYPE_CHECKING

from histocli import __all__, __version__  # noqa: F401

if TYPE_CHECKING:
    from histocli import *  # noqa: F403
else:
    from histocli import __dir__, __getattr__  # noqa: F401
