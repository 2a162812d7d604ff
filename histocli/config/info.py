"""Settings of ``histosynth info``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_seed


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Settings of describing a store; one field per command-line option."""

    sheet: str | None = None
    """PNG file to write with patches and their outlines."""
    sheet_patches: int = 16
    """Number of patches on the sheet."""
    seed: int = 0
    """Seed of the choice of patches."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 1 <= self.sheet_patches <= 400:
            raise InvalidOption(
                f"--sheet-patches must lie between 1 and 400, got {self.sheet_patches}"
            )
