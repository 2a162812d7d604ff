"""Regions of GeoJSON and of mask images are the same mask."""

import gzip
import json

import imagecodecs
import numpy as np
import pytest

from histocli.annotations.regions import find_regions, read_regions
from histocli.base.errors import InputNotFound, InvalidInput

SQUARE = [[80, 40], [240, 40], [240, 200], [80, 200], [80, 40]]
HOLE = [[120, 80], [200, 80], [200, 160], [120, 160], [120, 80]]


def feature(*rings):
    return {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
    }


def write(path, tree):
    content = json.dumps(tree).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "a.geojson.gz"])
@pytest.mark.parametrize(
    "tree",
    [
        feature(SQUARE, HOLE),
        [feature(SQUARE, HOLE)],
        {"type": "FeatureCollection", "features": [feature(SQUARE, HOLE)]},
        {
            "type": "GeometryCollection",
            "geometries": [{"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]}],
        },
    ],
    ids=["feature", "list", "collection", "geometries"],
)
def test_polygons_with_holes_on_a_coarse_grid(tmp_path, name, tree):
    mask = read_regions(write(tmp_path / name, tree))((30, 40), 8)
    expected = np.zeros((30, 40), bool)
    expected[5:25, 10:30] = True
    expected[10:20, 15:25] = False
    np.testing.assert_array_equal(mask, expected)


def test_a_mask_image_covers_the_slide_at_any_size(tmp_path):
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 20:60] = 3
    (tmp_path / "m.png").write_bytes(imagecodecs.png_encode(mask))
    found = read_regions(tmp_path / "m.png")((30, 40), 8)
    np.testing.assert_array_equal(found, mask[::2, ::2] > 0)


def test_a_folder_has_one_for_each_slide(tmp_path):
    write(tmp_path / "b.geojson", feature(SQUARE))
    assert find_regions(tmp_path, "b") == tmp_path / "b.geojson"
    with pytest.raises(InputNotFound, match=r"c\.geojson"):
        find_regions(tmp_path, "c")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        "{}",
        '{"type": "FeatureCollection", "features": []}',
        "[" * 100000,
        json.dumps(feature([[0, 0], [1, 1]])),
        json.dumps(feature([[0, 0], [1, "x"], [2, 2]])),
    ],
)
def test_what_is_none(tmp_path, content):
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(InvalidInput, match=r"GeoJSON|polygon"):
        read_regions(tmp_path / "a.geojson")
    with pytest.raises(InputNotFound):
        read_regions(tmp_path / "none.geojson")
