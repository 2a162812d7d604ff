"""Settings of ``histosynth models``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption

ACTIONS = ("list", "path", "verify")


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Positionals of ``histosynth models``."""

    action: str = "list"  # ``list`` models, print the ``path`` of one, or ``verify`` checksums
    name: str | None = None  # None: the default model for ``path``, all for other actions

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            known = ", ".join(ACTIONS)
            raise InvalidOption(f"models: the action must be one of {known}, got {self.action}")
