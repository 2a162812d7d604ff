"""Components of the synthesis, which an ablation or a test switches one at a time."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Switches of components; defaults are what ``docs/research/ablation.md`` kept."""

    pale: bool = True  # some nuclei are faint, down to invisible; the faintest are ignored
    chromatin: bool = True
    """Kinds of nuclei in the measured mixture; off: dense and vesicular nuclei only."""
    grain: bool = True
    """Chromatin as coarse as measured, unlike stretched textures; more irregular outlines."""
    crowds: bool = True  # groups of nuclei: epithelium pressed together, clusters of lymphocytes
    fibres: bool = True  # long nuclei lie along the fibres of the background
    cytoplasm: bool = True  # basophilic cytoplasm: background as dark as pale nuclei
    distractors: bool = True  # red cells, pigment, debris, folds, ink
    noise_textures: bool = True  # noise as chromatin if too few textures show one nucleus
    sharpness: bool = True  # finest detail of nuclei and their borders as in the reference


FULL_RECIPE = Recipe()
