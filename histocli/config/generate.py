"""Settings of ``histosynth generate``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import REFERENCE_MPP, SEED, SHIPPABLE, check_mpp, check_seed
from histocli.config.options import ESSENTIAL, FILES, RESEARCH, RUN, option


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of drawing synthetic patches; each field is a command-line option."""

    n: int = option(2000, "Number of patches.", metavar="N", panel=ESSENTIAL)
    patch_px: int = option(256, "Side of a patch, in pixels.", metavar="PX")
    mpp: float = option(0.25, "Micrometres per pixel of the patches.", metavar="UM")
    reference_mpp: float | None = option(None, REFERENCE_MPP, metavar="UM", panel=FILES)
    priors: str | None = option(
        None,
        "Measure the nuclei that this model (a file, box or box:NAME) finds in the references, "
        "instead of the roughly found ones.",
        metavar="MODEL",
    )
    rounds: int = option(
        0,
        "Rounds of re-sampling parameters of the synthesis by a classifier of real patches.",
        metavar="N",
        panel=RESEARCH,
    )
    shippable: bool = option(True, SHIPPABLE, flag="--shippable/--not-shippable", panel=FILES)
    seed: int = option(0, SEED, metavar="N", panel=RUN)

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        check_mpp(self.reference_mpp)
        check_seed(self.seed)
        if self.rounds < 0:
            raise InvalidOption(f"--rounds must not be negative, got {self.rounds}")
        if self.n < 1:
            raise InvalidOption(f"--n must be at least 1, got {self.n}")
        if not 32 <= self.patch_px <= 2048:
            raise InvalidOption(f"--patch-px must lie between 32 and 2048, got {self.patch_px}")
