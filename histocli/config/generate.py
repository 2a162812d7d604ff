"""Settings of ``histosynth generate``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_mpp, check_seed


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of initial synthesis; one field per command-line option."""

    n: int = 2000
    """Number of patches."""
    patch_px: int = 256
    """Side of a patch, in pixels at ``mpp``."""
    mpp: float = 0.25
    """Pixel size of the patches, in micrometres per pixel."""
    reference_mpp: float | None = None
    """Pixel size of the references, in micrometres per pixel, where they do not record it; a
    recorded one is overridden."""
    priors: str | None = None
    """Model whose nuclei of the references are measured and taken out, instead of the rough
    ones."""
    rounds: int = 0
    """Rounds in which parameters of the synthesis are re-sampled towards patches that a classifier
    takes for real."""
    shippable: bool = True
    """Whether the licence of the references lets weights that learnt from the patches be given
    away."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        if self.reference_mpp is not None:
            check_mpp(self.reference_mpp)
        check_seed(self.seed)
        if self.rounds < 0:
            raise InvalidOption(f"--rounds must not be negative, got {self.rounds}")
        if self.n < 1:
            raise InvalidOption(f"--n must be at least 1, got {self.n}")
        if not 32 <= self.patch_px <= 2048:
            raise InvalidOption(f"--patch-px must lie between 32 and 2048, got {self.patch_px}")
