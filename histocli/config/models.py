"""Settings of ``histosynth models``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption

ACTIONS = ("list", "path", "verify")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """What to tell of the models that come with the package."""

    action: str = "list"
    """``list`` them, print the ``path`` of one, or ``verify`` their checksums."""
    name: str | None = None
    """Which one; the default one for ``path``, all for the others."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise InvalidOption(
                f"models: the action must be one of {', '.join(ACTIONS)}, got {self.action}"
            )
