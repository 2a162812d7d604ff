"""What is measured on tissue made in code comes out near the truth."""

import json

import numpy as np
import pytest

from histocli.base.rng import rng_for
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES
from histocli.reference.calibration import Calibration
from histocli.reference.morphology import QUANTILES, quantiles
from histocli.reference.statistics import Reference, analyse_reference
from histocli.reference.texture import FRAME_PX
from tests.tissue import make_tissue, measure_morphology


def analyse(image, mpp=0.5):
    return analyse_reference(image, mpp, "tissue.png", rng_for(0, "analyse"))


@pytest.fixture(scope="module")
def reference():
    return analyse(make_tissue(256, area_um2=50, elongation=1.8, angle=0.5).image)


def test_number_size_and_shape_are_near_the_truth(reference):
    morphology = reference.statistics.morphology
    truth = make_tissue(256, area_um2=50, elongation=1.8, angle=0.5).labels
    assert morphology.n_nuclei == pytest.approx(truth.max(), rel=0.05)
    assert morphology.density_per_mm2 == pytest.approx(
        truth.max() / (256 * 0.5) ** 2 * 1e6, rel=0.05
    )
    assert morphology.nuclear_fraction == pytest.approx((truth > 0).mean(), rel=0.2)
    assert morphology.area_um2[2] == pytest.approx(50, rel=0.2)
    assert morphology.typical_area_um2[0] == pytest.approx(50, rel=0.2)
    assert morphology.log_area_sd < 0.25
    assert morphology.elongation[2] == pytest.approx(1.8, rel=0.12)
    assert morphology.direction_sharing > 0.9
    assert morphology.touching_share < 0.1


def test_each_prior_follows_its_cause(reference):
    """Change one thing of the tissue, and the one number follows."""
    base = reference.statistics.morphology
    larger = analyse(
        make_tissue(256, area_um2=90, elongation=1.8, angle=0.5).image
    ).statistics.morphology
    assert larger.area_um2[2] > 1.5 * base.area_um2[2]
    turned = analyse(make_tissue(256, area_um2=50, elongation=1.8).image).statistics.morphology
    assert turned.direction_sharing < 0.5
    rounder = analyse(
        make_tissue(256, area_um2=50, elongation=1.1, angle=0.5).image
    ).statistics.morphology
    assert rounder.elongation[2] < 1.3
    sparser = analyse(
        make_tissue(256, spacing_um=24, area_um2=50, elongation=1.8, angle=0.5).image
    ).statistics.morphology
    assert sparser.density_per_mm2 < 0.5 * base.density_per_mm2


def test_the_numbers_do_not_depend_on_the_pixel_size():
    fine, coarse = (
        analyse(make_tissue(side, mpp).image, mpp).statistics.morphology
        for side, mpp in ((384, 0.25), (192, 0.5))
    )
    assert fine.area_um2[2] == pytest.approx(coarse.area_um2[2], rel=0.15)
    assert fine.density_per_mm2 == pytest.approx(coarse.density_per_mm2, rel=0.1)


def test_appearance_is_measured(reference):
    appearance = reference.statistics.appearance
    assert appearance.tissue_fraction > 0.99
    # hematoxylin of 1.1 times the 0.65 of red in its colour, edges included
    assert 0.4 < appearance.contrast[2] < 1.0
    assert appearance.core_to_rim[2] == pytest.approx(1, abs=0.3)
    assert appearance.single_share > 0.8
    assert 0.12 <= appearance.edge_um <= 0.6
    assert appearance.suspicious_fraction < 0.1
    assert appearance.white_level > 150
    assert np.linalg.norm(appearance.stain_matrix, axis=1) == pytest.approx([1, 1], abs=1e-4)


def test_density_counts_tissue_only():
    whole = analyse(make_tissue(192).image).statistics
    beside_glass = analyse(make_tissue(192, glass=True).image).statistics
    assert beside_glass.appearance.tissue_fraction == pytest.approx(2 / 3, abs=0.05)
    assert beside_glass.morphology.density_per_mm2 == pytest.approx(
        whole.morphology.density_per_mm2, rel=0.2
    )


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (230, 170, 200)])
@pytest.mark.parametrize("side", [1, 5, 64])
def test_an_even_image_is_a_reference_without_nuclei(colour, side):
    reference = analyse(np.full((side, side, 3), colour, np.uint8))
    morphology, appearance = reference.statistics.morphology, reference.statistics.appearance
    assert morphology.n_nuclei == 0
    assert morphology.area_um2 == (40.0,) * len(QUANTILES)
    assert not appearance.stains_measured
    assert appearance.stains_note
    assert len(reference.textures) == 0
    text = json.dumps(reference.statistics.to_json(), allow_nan=False)  # finite throughout
    assert json.loads(text)["morphology"]["n_nuclei"] == 0


def test_morphology_is_measured_from_any_labels():
    tissue = make_tissue(256, area_um2=50, elongation=1.8, angle=0.5)
    everywhere = np.ones(tissue.labels.shape, bool)
    found = measure_morphology(tissue.labels, everywhere, 0.5)
    assert found.n_nuclei == tissue.labels.max()
    assert found.area_um2[2] == pytest.approx(50, rel=0.03)
    assert found.nuclear_fraction == pytest.approx((tissue.labels > 0).mean(), abs=1e-9)
    assert found.elongation[2] == pytest.approx(1.8, rel=0.05)
    renumbered = np.where(tissue.labels > 0, 1000 - 3 * tissue.labels, tissue.labels)
    assert measure_morphology(renumbered, everywhere, 0.5).area_um2 == pytest.approx(found.area_um2)
    ignored = np.where(tissue.labels == 0, -1, tissue.labels).astype(np.int32)
    assert measure_morphology(ignored, everywhere, 0.5).n_nuclei == found.n_nuclei


def test_nuclei_cut_by_the_image_count_but_do_not_tell_sizes():
    labels = np.zeros((40, 40), np.int32)
    labels[0:2, 0:2] = 1  # cut
    labels[10:20, 10:20] = 2
    found = measure_morphology(labels, np.ones((40, 40), bool), 1.0)
    assert found.n_nuclei == 2
    assert set(found.area_um2) == {100.0}


def test_a_reference_survives_being_written_and_read(reference):
    arrays, about = reference.to_arrays()
    back = Reference.from_arrays(arrays, json.loads(json.dumps(about)))
    assert (back.name, back.mpp) == ("tissue.png", 0.5)
    assert back.statistics.to_json() == reference.statistics.to_json()
    np.testing.assert_allclose(back.background, reference.background, atol=2e-3)
    np.testing.assert_array_equal(back.tissue, reference.tissue)
    np.testing.assert_array_equal(back.ignored, reference.ignored)
    for name in ("residual", "colour", "surround", "area_um2", "core_to_rim", "single"):
        np.testing.assert_array_equal(
            getattr(back.textures, name), getattr(reference.textures, name)
        )
    np.testing.assert_array_equal(back.nuclei.y_px, reference.nuclei.y_px)
    np.testing.assert_array_equal(back.nuclei.touches_border, reference.nuclei.touches_border)


def test_the_parts_of_a_reference_fit_each_other(reference):
    shape = (256, 256)
    assert reference.background.shape == (*shape, 3)
    assert reference.ignored.shape == reference.tissue.shape == shape
    assert reference.textures.residual.shape[1:] == (3, FRAME_PX, FRAME_PX)
    assert len(reference.nuclei) == reference.statistics.morphology.n_nuclei


def test_a_prediction_takes_the_place_of_the_rough_nuclei():
    """The truth with every third nucleus left out is given as prediction: the numbers are those of
    its labels."""
    tissue = make_tissue(192)
    predicted = np.where(tissue.labels % 3 == 0, 0, tissue.labels).astype(np.int32)
    rough = analyse(tissue.image)
    found = analyse_reference(
        tissue.image, 0.5, "tissue.png", rng_for(0, "analyse"), predicted=predicted
    )
    measured = measure_morphology(predicted, found.tissue, 0.5)
    assert found.statistics.morphology == measured
    assert measured.n_nuclei == len(np.unique(predicted)) - 1 < rough.statistics.morphology.n_nuclei
    assert sorted(found.nuclei.id) == sorted(set(np.unique(predicted)) - {0})
    # what only the rough map takes for nuclei is ignored; it stays in the background
    left_out = (tissue.labels > 0) & (predicted == 0)
    assert found.ignored[left_out].mean() > 0.9
    assert not found.ignored[predicted > 0].any()
    assert found.background[left_out, 0].mean() > 0.5
    assert found.background[predicted > 0, 0].mean() < 0.3
    # the rough map ignores none of these
    assert rough.ignored[left_out].mean() < 0.1


def test_a_prediction_may_find_what_the_rough_map_does_not():
    tissue = make_tissue(128, nuclei=False, glass=True)
    predicted = np.zeros((128, 128), np.int32)
    predicted[60:72, 80:92], predicted[60:72, 8:20] = 1, 2  # the second on glass
    found = analyse_reference(
        tissue.image, 0.5, "tissue.png", rng_for(0, "analyse"), predicted=predicted
    )
    assert found.statistics.morphology.n_nuclei == 2
    assert found.tissue[predicted > 0].all()
    nothing = analyse_reference(
        tissue.image,
        0.5,
        "tissue.png",
        rng_for(0, "analyse"),
        predicted=np.zeros((128, 128), np.int32),
    )
    assert nothing.statistics.morphology.n_nuclei == 0
    assert len(nothing.textures) == 0


def test_what_a_model_alone_takes_for_a_nucleus_is_no_example_of_one():
    """The model also finds round places of even tissue: they count, and lend no texture."""
    tissue = make_tissue(192)
    centres = [
        (y, x)
        for y in range(10, 190, 12)
        for x in range(10, 190, 12)
        if not tissue.labels[y - 5 : y + 5, x - 5 : x + 5].any()
    ]
    invented = tissue.labels.copy()
    grid_y, grid_x = np.mgrid[:192, :192]
    for number, (y, x) in enumerate(centres[:6], start=1):
        invented[(grid_y - y) ** 2 + (grid_x - x) ** 2 < 20] = tissue.labels.max() + number
    found = analyse_reference(
        tissue.image, 0.5, "tissue.png", rng_for(0, "analyse"), predicted=invented
    )
    of = found.nuclei.id[found.textures.nucleus]
    false = of > tissue.labels.max()
    assert false.sum() >= 3
    assert not found.textures.single[false].any()
    assert found.textures.single[~false].mean() > 0.5


def test_a_calibration_corrects_the_priors_and_nothing_else():
    tissue = make_tissue(128)
    plain = analyse(tissue.image)
    calibration = Calibration(area_factor=0.8, recall=0.7)
    corrected = analyse_reference(
        tissue.image, 0.5, "tissue.png", rng_for(0, "analyse"), calibration=calibration
    )
    assert corrected.statistics.morphology == calibration.correct(plain.statistics.morphology)
    np.testing.assert_array_equal(corrected.background, plain.background)
    np.testing.assert_array_equal(corrected.nuclei.area_um2, plain.nuclei.area_um2)


def test_histograms_and_mixture_are_shares(reference):
    statistics = reference.statistics
    assert sum(statistics.appearance.mixture) == pytest.approx(1)
    for shares, edges in (
        (statistics.morphology.area_shares, AREA_EDGES_UM2),
        (statistics.morphology.elongation_shares, ELONGATION_EDGES),
    ):
        assert len(shares) == len(edges) - 1
        assert sum(shares) == pytest.approx(1)
    fullest = int(np.argmax(statistics.morphology.area_shares))
    assert AREA_EDGES_UM2[fullest] / 1.3 <= 50 <= AREA_EDGES_UM2[fullest + 1] * 1.3


def test_quantiles_of_nothing_are_the_fallback():
    assert quantiles(np.zeros(0), 1.5) == (1.5,) * len(QUANTILES)
    assert quantiles(np.arange(101.0), 0) == pytest.approx([100 * q for q in QUANTILES])
