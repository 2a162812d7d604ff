"""Settings of ``histosynth info``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import SEED, check_seed
from histocli.config.options import FILES, RUN, option


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Settings of describing a store; each field is a command-line option."""

    everything: bool = option(
        False, "Print every recorded value, not only a page of them.", flag="--all", panel=FILES
    )
    sheet: str | None = option(
        None, "Picture to write: patches beside their outlines.", metavar="FILE.png", panel=FILES
    )
    sheet_patches: int = option(16, "Patches on the sheet.", metavar="N", panel=FILES)
    seed: int = option(0, SEED, metavar="N", panel=RUN)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 1 <= (n := self.sheet_patches) <= 400:
            raise InvalidOption(f"--sheet-patches must lie between 1 and 400, got {n}")
