"""Settings of ``histosynth pack``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import MPP, check_mpp
from histocli.config.options import FILES, option


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Settings of packing labelled images as a patch store; each field is a command-line option."""

    # larger images are cut into patches; smaller images are padded with pixels labelled -1
    patch_px: int = option(256, "Side of a patch, in pixels.", metavar="PX")
    mpp: float | None = option(None, MPP, metavar="UM", panel=FILES)
    shippable: bool = option(
        True,
        "Whether the licence of the images lets trained weights be given away.",
        flag="--shippable/--not-shippable",
        panel=FILES,
    )

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        if not 32 <= self.patch_px <= 2048:
            raise InvalidOption(f"--patch-px must lie between 32 and 2048, got {self.patch_px}")
