"""Settings of ``histosynth pack``."""

from dataclasses import dataclass

from histocli.base.errors import InvalidOption
from histocli.config.common import check_mpp


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Settings of packing a person's own labelled patches; one field per command-line option."""

    patch_px: int = 256
    """Side of a patch, in pixels; larger images are cut into patches, smaller ones are padded with
    ignored pixels."""
    mpp: float | None = None
    """Pixel size of the images, in micrometres per pixel; overrides what they record."""
    shippable: bool = True
    """False when a licence forbids giving away weights trained on these images."""

    def __post_init__(self) -> None:
        check_mpp(self.mpp)
        if not 32 <= self.patch_px <= 2048:
            raise InvalidOption(f"--patch-px must lie between 32 and 2048, got {self.patch_px}")
