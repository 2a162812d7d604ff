"""GeoJSON as programs write it: what is right in a file is read, what is wrong is named."""

import gzip
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.annotations.geojson import read_geojson_regions
from histocli.annotations.outlines import Outlines, read_outlines
from histocli.base.errors import HistosynthError

SHAPE = (40, 60)


def square(x, y, side=8):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(*rings, kind=None, **more):
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    properties = {} if kind is None else {"objectType": kind}
    return {"type": "Feature", "geometry": geometry, "properties": properties} | more


TWO = [feature(square(2, 3)), feature(square(30, 20))]


@pytest.fixture
def drawn(tmp_path):
    """Return a function that writes a document and draws what is read of it."""

    def draw(document, name="a.geojson"):
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        (tmp_path / name).write_bytes(content)
        return read_outlines(tmp_path / name).draw(SHAPE)

    return draw


@pytest.fixture
def wanted():
    labels = np.zeros(SHAPE, np.int32)
    labels[3:11, 2:10], labels[20:28, 30:38] = 1, 2
    return labels


def polygon(x, y):
    return {"type": "Polygon", "coordinates": [square(x, y)]}


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": TWO},
        TWO,
        {"type": "GeometryCollection", "geometries": [polygon(2, 3), polygon(30, 20)]},
        {"type": "MultiPolygon", "coordinates": [[square(2, 3)], [square(30, 20)]]},
        [polygon(2, 3), polygon(30, 20)],
        [TWO[0], None, {"type": "Feature", "geometry": None, "properties": None}, TWO[1]],
        [TWO[0], {"type": "Feature", "properties": {}}, {"geometry": polygon(30, 20)}],
    ],
    ids=["collection", "list", "geometries", "multipolygon", "polygons", "null", "bare"],
)
def test_every_form_of_a_file_is_read(drawn, wanted, document):
    assert np.array_equal(drawn(document), wanted)


def test_what_json_forbids_but_programs_write(drawn, wanted):
    measured = [each | {"properties": {"measurements": {"a": float("nan")}}} for each in TWO]
    text = json.dumps(measured)
    assert "NaN" in text
    for content in (
        text.encode(),
        text.replace("NaN", "-Infinity").encode(),
        b"\xef\xbb\xbf" + json.dumps(TWO).encode(),
        text.encode("utf-16"),
        json.dumps(TWO).replace("Feature", "Feature", 1).encode()[:-1] + b', {"n": "tum\xf6r"}]',
        gzip.compress(text.encode()),
    ):
        assert np.array_equal(drawn(content), wanted)


@pytest.mark.parametrize(
    "broken",
    [
        feature([[5, 5], [6, 6]]),
        feature([[5, 5], [6, "x"], [7, 7]]),
        feature([[5, 5], [6, None], [7, 7]]),
        feature([[5, 5], [float("inf"), 6], [7, 7]]),
        feature(5),
        {"type": "Feature", "geometry": {"type": "Polygon"}, "properties": {}},
        {"type": "Feature", "geometry": polygon(0, 0), "properties": [1]},
        17,
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_broken_object_is_named_and_the_others_are_read(drawn, wanted, broken, caplog):
    assert np.array_equal(drawn([TWO[0], broken, TWO[1]]), wanted)
    assert "1 of 3 features are no polygons and are left out (feature 1: " in caplog.text


def test_points_and_lines_are_no_nuclei(drawn, wanted, caplog):
    others = [
        {"type": "Feature", "geometry": {"type": kind, "coordinates": [1, 1]}, "properties": {}}
        for kind in ("Point", "LineString", "MultiPoint")
    ]
    assert np.array_equal(drawn([*others, *TWO]), wanted)
    assert not caplog.records


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("kind", ["annotation", "tile", "root"])
def test_a_region_around_cells_is_no_nucleus(drawn, wanted, place, kind):
    region = feature([[0, 0], [60, 0], [60, 40], [0, 40]], kind=kind)
    cells = [each | {"properties": {"objectType": "detection"}} for each in TWO]
    assert np.array_equal(drawn([region, *cells] if place == "first" else [*cells, region]), wanted)
    # without detections, annotations are what a person drew around nuclei
    alone = [each | {"properties": {"objectType": kind}} for each in TWO]
    assert np.array_equal(drawn(alone), wanted)


def test_an_area_to_ignore_stays_beside_detections(drawn):
    area = feature(square(50, 0), kind="annotation")
    area["properties"]["classification"] = {"name": "Ignore*"}
    cells = [each | {"properties": {"objectType": "cell"}} for each in TWO]
    assert (drawn([area, *cells])[:8, 50:58] == -1).all()


def test_the_nucleus_of_a_cell_is_read(drawn, wanted):
    around = feature(square(0, 0, 14), kind="cell", nucleusGeometry=polygon(2, 3))
    assert np.array_equal(drawn([around, TWO[1]]), wanted)


def test_a_hole_may_come_before_its_outline(drawn):
    outline, hole = square(2, 3, 20), square(8, 9, 4)
    assert np.array_equal(drawn([feature(hole, outline)]), drawn([feature(outline, hole)]))
    assert drawn([feature(hole, outline)])[10, 9] == 0
    assert np.array_equal(drawn([feature(outline, [[1, 1], [2, 2]])]), drawn([feature(outline)]))


def test_regions_are_the_annotations_of_a_file(tmp_path):
    region = feature(square(0, 0, 30), kind="annotation")
    cells = [each | {"properties": {"objectType": "detection"}} for each in TWO]
    path = tmp_path / "r.geojson"
    found = read_geojson_regions(path, json.dumps([*cells, region]).encode())
    assert [polygon[0].max() for polygon in found] == [30]
    assert len(read_geojson_regions(path, json.dumps(cells).encode())) == 2


KEYS = (
    "type features geometry geometries coordinates properties objectType classification "
    "nucleusGeometry name"
).split()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(-5, 70),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=3),
            inner | st.sampled_from(["Feature", "FeatureCollection", "Polygon", "MultiPolygon"]),
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(deadline=None, max_examples=150)
@given(document=JSON)
def test_any_json_gives_outlines_or_an_error_of_ours(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("any") / "a.geojson"
    path.write_text(json.dumps(document))
    with suppress(HistosynthError):
        assert isinstance(read_outlines(path), Outlines)
