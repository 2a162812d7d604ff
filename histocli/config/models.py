"""Settings of ``histosynth models``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption

ACTIONS = ("list", "path", "verify")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Positionals of ``histosynth models``."""

    action: str = "list"
    """``list`` the models, print the ``path`` of one, or ``verify`` their checksums."""
    name: str | None = None
    """Name of one model; None: the default model for ``path``, all models for the other actions."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise InvalidOption(
                f"models: the action must be one of {', '.join(ACTIONS)}, got {self.action}"
            )
