"""Analysis of one reference image, a real image that synthetic patches imitate.

The analysis gives statistics (stains, nuclei, contrast, sharpness), nuclear textures and the
background without nuclei. Nuclei come from the rough map (``reference/rough.py``) or a model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, InstanceLabels, Json, RGBImage
from histocli.instances.components import disk
from histocli.instances.measurements import Measurements, measure
from histocli.optics.density import rgb_to_optical_density, white_level
from histocli.optics.stains import StainEstimate, estimate_stains, unmix
from histocli.reference.calibration import UNCALIBRATED, Calibration
from histocli.reference.chromatin import edge_softness, estimate_mixture
from histocli.reference.morphology import Morphology, morphology_of, quantiles
from histocli.reference.rough import (
    SMALLEST_UM2,
    SMOOTHING_UM,
    RoughNuclei,
    blur_um,
    find_rough_nuclei,
    inner_border,
)
from histocli.reference.sharpness import fine_detail
from histocli.reference.texture import NuclearTextures, cut_textures, remove_nuclei


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Stains, contrast and sharpness of an image; quantiles are ``morphology.QUANTILES``."""

    white_level: float
    stain_matrix: tuple[tuple[float, ...], ...]
    """Hematoxylin, eosin: unit vectors of optical density in red, green, blue."""
    stains_measured: bool
    stains_note: str
    hematoxylin: tuple[float, ...]  # quantiles of the concentration in tissue
    eosin: tuple[float, ...]
    contrast: tuple[float, ...]  # quantiles over nuclei: absorbance of red inside minus around
    core_to_rim: tuple[float, ...]  # quantiles: contrast of the core over that of the rim
    single_share: float  # share of textures with the outline of one nucleus
    edge_um: float  # standard deviation of the blur of nuclear edges
    mixture: tuple[float, ...]  # share of each ``instances.kinds.Kind`` of nucleus
    grain_sd: float  # standard deviation of the absorbance of red within nuclei
    fine_grain: float  # the same of detail below 0.5 um, over the median contrast
    fine_core: float  # finest detail of light within nuclei, as a share of white
    fine_edge: float  # the same along the borders of nuclei
    red_cell_fraction: float  # share of tissue with much eosin and little hematoxylin
    tissue_fraction: float
    suspicious_fraction: float  # share of the image that is ignored: perhaps missed nuclei
    left_behind: int  # number of ignored places of at least ``SMALLEST_UM2``


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """All statistics of a reference, as plain numbers."""

    morphology: Morphology
    appearance: Appearance

    def to_json(self) -> Json:
        """Return nested plain values, rounded to four significant digits."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One analysed reference image: the material of the synthesis."""

    name: str
    mpp: float
    background: npt.NDArray[np.floating]  # (H, W, 3), optical density, nuclei removed
    ignored: BoolMask  # (H, W), where a missed nucleus may be
    tissue: BoolMask  # (H, W)
    nuclei: Measurements  # the nuclei that were removed
    textures: NuclearTextures
    statistics: ReferenceStatistics

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[Any]], Json]:
        """Return the arrays and plain values that ``from_arrays`` takes."""
        arrays: dict[str, npt.NDArray[Any]] = {
            # rounding errors of at most 0.002, for absorbances are below 6
            "background": self.background.astype(np.float16),
            "ignored": self.ignored,
            "tissue": self.tissue,
        }
        arrays |= {
            f"texture_{field.name}": getattr(self.textures, field.name)
            for field in fields(NuclearTextures)
        }
        arrays |= {
            f"nucleus_{field.name}": getattr(self.nuclei, field.name)
            for field in fields(Measurements)
        }
        return arrays, {"name": self.name, "mpp": self.mpp, "statistics": asdict(self.statistics)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], about: Json) -> "Reference":
        """Rebuild a reference from ``to_arrays``; arrays may be memory-mapped."""
        measured = about["statistics"]
        return cls(
            name=about["name"],
            mpp=about["mpp"],
            background=arrays["background"],
            ignored=arrays["ignored"],
            tissue=arrays["tissue"],
            textures=NuclearTextures(
                **{field.name: arrays[f"texture_{field.name}"] for field in fields(NuclearTextures)}
            ),
            nuclei=Measurements(
                **{field.name: arrays[f"nucleus_{field.name}"] for field in fields(Measurements)}
            ),
            statistics=ReferenceStatistics(
                morphology=Morphology(**measured["morphology"]),
                appearance=Appearance(**measured["appearance"]),
            ),
        )


def edge_blur_um(rough: RoughNuclei, textures: NuclearTextures, mpp: float) -> float:
    """Estimate the standard deviation of the blur of nuclear edges, in micrometres.

    A step of height c that is blurred by sigma has the slope c / (sigma sqrt(2 pi)). The slope is
    measured after smoothing by ``SMOOTHING_UM``, whose variance is subtracted afterwards.
    """
    edge = inner_border(rough.labels)
    if not edge.any() or not len(textures):
        return 0.25
    slope_y, slope_x = np.gradient(rough.darkness)
    slope = np.hypot(slope_y, slope_x)[edge] / mpp
    contrast = float(np.median(textures.colour[:, 0] - textures.surround[:, 0]))
    sigma = contrast / max(float(np.quantile(slope, 0.75)), 1e-3) / np.sqrt(2 * np.pi)
    return float(np.clip(np.sqrt(max(sigma**2 - SMOOTHING_UM**2, 0)), 0.12, 0.6))


def analyse_reference(
    image: RGBImage,
    mpp: float,
    name: str,
    rng: np.random.Generator,
    *,
    predicted: InstanceLabels | None = None,
    calibration: Calibration = UNCALIBRATED,
) -> Reference:
    """Analyse a reference image.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    mpp : float
        Micrometres per pixel.
    name : str
    rng : numpy.random.Generator
        Chooses the places that fill holes, and the textures that are kept.
    predicted : ndarray of int32, shape (H, W), optional
        Labels of a model, in place of the rough nuclei; rough nuclei outside them are ignored.
    calibration : Calibration
        Errors of the source of nuclei on synthetic patches.
    """
    white = white_level(image)
    optical_density = rgb_to_optical_density(image, white)
    stains = estimate_stains(optical_density)
    rough = find_rough_nuclei(optical_density, mpp)
    dark = rough.labels > 0
    if predicted is not None:
        doubtful = (rough.suspicious | dark) & (predicted == 0)
        rough = replace(
            rough, labels=predicted, suspicious=doubtful, tissue=rough.tissue | (predicted > 0)
        )
    nuclei = measure(rough.labels, mpp)
    textures = cut_textures(optical_density, rough.labels, nuclei, mpp, rng)
    if predicted is not None:
        # nuclei that only the model found may be wrong: their textures are not used
        ids = rough.labels.ravel()
        share = np.bincount(ids, dark.ravel()) / np.maximum(np.bincount(ids), 1)
        agreed = share[nuclei.id[textures.nucleus]] > 0.5
        textures = replace(textures, single=textures.single & agreed)
    morphology = calibration.correct(morphology_of(nuclei, rough.tissue, mpp))
    appearance = _appearance(
        optical_density, white, stains, rough, nuclei, textures, morphology, mpp
    )
    return Reference(
        name=name,
        mpp=mpp,
        background=remove_nuclei(optical_density, rough, mpp, rng),
        ignored=rough.suspicious,
        tissue=rough.tissue,
        nuclei=nuclei,
        textures=textures,
        statistics=ReferenceStatistics(morphology=morphology, appearance=appearance),
    )


def _appearance(
    optical_density: FloatArray,
    white: float,
    stains: StainEstimate,
    rough: RoughNuclei,
    nuclei: Measurements,
    textures: NuclearTextures,
    morphology: Morphology,
    mpp: float,
) -> Appearance:
    concentrations = unmix(optical_density, stains.stain_matrix)[rough.tissue]
    fine_core, fine_edge = fine_detail(np.exp(-optical_density), rough.labels > 0)
    single = textures.single
    softness = edge_softness(rough.darkness, rough.labels, nuclei, textures)
    clean = textures.residual[single, 0] if single.any() else textures.residual[:, 0]
    eosin = concentrations[:, 1]
    typical = np.median(concentrations, axis=0) if eosin.size else np.zeros(2)
    # red cells have more than twice the eosin of other tissue and hardly any hematoxylin
    red = (eosin > 2.2 * typical[1]) & (concentrations[:, 0] < typical[0])
    contrast = textures.colour[:, 0] - textures.surround[:, 0]
    return Appearance(
        white_level=white,
        stain_matrix=tuple(tuple(float(value) for value in row) for row in stains.stain_matrix),
        stains_measured=stains.measured,
        stains_note=stains.reason,
        hematoxylin=quantiles(concentrations[:, 0], 0.0),
        eosin=quantiles(concentrations[:, 1], 0.0),
        contrast=quantiles(contrast, 0.0),
        core_to_rim=quantiles(textures.core_to_rim[single], 1.0),
        single_share=float(single.mean()) if len(single) else 0.0,
        edge_um=edge_blur_um(rough, textures, mpp),
        mixture=estimate_mixture(nuclei, textures, softness, morphology.typical_area_um2[0]),
        grain_sd=float(clean[clean != 0].std()) if np.any(clean) else 0.1,
        fine_grain=_fine_grain(
            optical_density, rough, float(np.median(contrast)) if len(contrast) else 0.0, mpp
        ),
        fine_core=fine_core,
        fine_edge=fine_edge,
        red_cell_fraction=float(red.mean()) if red.size else 0.0,
        tissue_fraction=float(rough.tissue.mean()),
        suspicious_fraction=float(rough.suspicious.mean()),
        left_behind=_count_places(rough.suspicious, SMALLEST_UM2 / mpp**2),
    )


def _count_places(mask: BoolMask, smallest_px: float) -> int:
    """Count the connected places of at least ``smallest_px`` pixels."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return int((statistics[1:, cv2.CC_STAT_AREA] >= smallest_px).sum())


def _fine_grain(
    optical_density: FloatArray, rough: RoughNuclei, contrast: float, mpp: float
) -> float:
    """Measure ``Appearance.fine_grain``."""
    fine_um = 0.5
    inside = cv2.erode((rough.labels > 0).astype(np.uint8), disk(fine_um / mpp)).astype(bool)
    if inside.sum() < 200 or contrast <= 0:
        return 0.2  # typical value
    red = np.ascontiguousarray(optical_density[..., 0])
    fine = (red - blur_um(red, fine_um, mpp))[inside]
    return float(np.clip(fine.std() / max(contrast, 0.05), 0.03, 0.5))


def _rounded(value: object) -> object:
    """Round nested numbers to four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
