"""Which parts of the synthesis are on; an ablation or a test switches them one at a time."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Components of the synthesis; defaults are what ``docs/research/ablation.md`` kept."""

    pale: bool = True
    """Some nuclei are faint, down to barely visible; the faintest are ignored."""
    chromatin: bool = True
    """Kinds of nuclei in the mixture measured in the reference; off: vesicular ones in a random
    share."""
    grain: bool = True
    """Chromatin as coarse as measured, which stretched textures are not; outlines less perfect than
    ellipses."""
    crowds: bool = True
    """Epithelium in ribbons, glands and sheets, nuclei pressed against their neighbours; clusters
    of lymphocytes."""
    fibres: bool = True
    """Elongated nuclei lie along the fibres of the background."""
    cytoplasm: bool = True
    """Basophilic cytoplasm around nuclei: background as dark as pale nuclei."""
    distractors: bool = True
    """Red cells, pigment, debris and folds: dark, and not nuclei."""
    noise_textures: bool = True
    """Where hardly any fragment is one nucleus, chromatin is fitted noise instead of pieces of
    several nuclei."""
    sharpness: bool = True
    """Nuclei as sharp and as noisy as the reference's, within and along their borders."""


FULL_RECIPE = Recipe()
