"""Outlines as files: what is drawn is what lies inside, and what is no annotation is refused in one
line."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histocli.annotations.outlines import read_outlines
from histocli.base.errors import InputNotFound, InvalidInput

SHAPE = (7, 9)


def feature(coordinates, kind="Polygon", **properties):
    properties.setdefault("objectType", "detection")
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def read(tmp_path, features, name="a.geojson"):
    (tmp_path / name).write_text(json.dumps(features))
    return read_outlines(tmp_path / name)


@settings(deadline=None, max_examples=50)
@given(labels=hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 4)))
def test_outlines_along_the_edges_of_pixels_give_the_pixels_back(tmp_path_factory, labels):
    """Each run of a row is a rectangle of a MultiPolygon."""
    features, ids = [], [k for k in range(1, 5) if (labels == k).any()]
    for k in ids:
        runs = [[box(x, y, x + 1, y + 1)] for y, x in np.argwhere(labels == k).tolist()]
        features.append(feature(runs, "MultiPolygon"))
    drawn = read(
        tmp_path_factory.mktemp("g"), {"type": "FeatureCollection", "features": features}
    ).draw(SHAPE)
    wanted = np.zeros(SHAPE, int)
    for number, k in enumerate(ids, 1):
        wanted[labels == k] = number
    assert (drawn == wanted).all()


def inside(ring, y, x):
    """Even-odd rule, one centre at a time."""
    odd = False
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            odd = not odd
    return odd


@settings(deadline=None, max_examples=80)
@given(
    ring=st.lists(st.tuples(st.floats(-2, 11), st.floats(-2, 9)), min_size=3, max_size=7),
    hole=st.booleans(),
)
def test_a_pixel_belongs_to_the_polygon_its_centre_lies_in(tmp_path_factory, ring, hole):
    # no corner or edge on a centre
    ring = [(round(x, 2) + 0.003, round(y, 2) + 0.007) for x, y in ring]
    rings = [ring, box(2.1, 2.1, 4.2, 5.3)] if hole else [ring]
    drawn = read(tmp_path_factory.mktemp("g"), [feature(rings)]).draw(SHAPE)
    for y, x in np.ndindex(SHAPE):
        wanted = sum(inside(list(map(tuple, each)), y + 0.5, x + 0.5) for each in rings) % 2
        if hole and not inside(ring, y + 0.5, x + 0.5):
            continue  # a hole outside its polygon is no polygon
        near_edge = any(
            abs((x1 - x0) * (y + 0.5 - y0) - (x + 0.5 - x0) * (y1 - y0)) < 1e-6
            for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True)
        )
        assert near_edge or drawn[y, x] == wanted


def test_what_qupath_writes(tmp_path):
    """Cells count by their nucleus, TMA cores and points not at all, and Ignore* is ignored; later
    features lie on top."""
    cell = feature([box(0, 0, 9, 7)], objectType="cell") | {
        "nucleusGeometry": {"type": "Polygon", "coordinates": [box(1, 1, 4, 4)]}
    }
    features = [
        cell,
        feature([box(0, 0, 9, 7)], objectType="tma_core"),
        feature([3, 3], "Point"),
        feature([box(3, 3, 6, 6)], classification={"name": "Tumor"}),
        feature([box(7, 0, 9, 2)], classification={"name": "Ignore*"}),
    ]
    for name, content in (("a.geojson", json.dumps(features)), ("b.geojson.gz", None)):
        if content is None:
            (tmp_path / name).write_bytes(
                gzip.compress(
                    json.dumps({"type": "FeatureCollection", "features": features}).encode()
                )
            )
        else:
            (tmp_path / name).write_text(content)
        labels = read_outlines(tmp_path / name).draw(SHAPE)
        wanted = np.zeros(SHAPE, int)
        wanted[1:4, 1:4], wanted[3:6, 3:6], wanted[0:2, 7:9] = 1, 2, -1
        assert (labels == wanted).all()


@pytest.mark.parametrize(
    "cut",
    [((0, 0), (6, 6)), ((0, 3), (6, 3)), ((2.5, 0), (2.5, 6)), ((0, 6), (6, 0)), ((0, 1), (6, 4))],
)
def test_two_halves_share_no_pixel_and_leave_none(tmp_path, cut):
    """A square cut along a line through the centres of pixels: each pixel is in one half."""
    (x0, y0), (x1, y1) = cut
    corners = [(0, 0), (6, 0), (6, 6), (0, 6)]
    side = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in corners]

    def around(centre, points):
        return sorted(points, key=lambda p: np.arctan2(p[1] - centre[1], p[0] - centre[0]))

    halves = []
    for sign in (1, -1):
        points = [c for c, s in zip(corners, side, strict=True) if sign * s > 0] + [cut[0], cut[1]]
        halves.append(around(np.mean(points, axis=0), points))
    drawn = [read(tmp_path, [feature([[list(p) for p in half]])]).draw((6, 6)) for half in halves]
    assert (drawn[0] + drawn[1] == 1).all()


def test_extent_and_what_lies_outside(tmp_path):
    annotations = read(tmp_path, [feature([box(-5, 2, 4, 30.5)])])
    assert annotations.extent == (31, 4)
    labels = annotations.draw(SHAPE)
    assert (labels[2:, :4] == 1).all()
    assert labels.sum() == 20
    assert read(tmp_path, []).extent == (0, 0)


XML = """<?xml version="1.0" encoding="UTF-8"?>
<Annotations MicronsPerPixel="0.252000"><Annotation Id="1"><Attributes/><Regions>
<RegionAttributeHeaders/>
<Region Id="1" NegativeROA="0"><Vertices><Vertex X="1" Y="1" Z="0"/><Vertex X="5" Y="1"/>
<Vertex X="5" Y="6"/><Vertex X="1" Y="6"/></Vertices></Region>
<Region Id="2" NegativeROA="1"><Vertices><Vertex X="2" Y="2"/><Vertex X="4" Y="2"/>
<Vertex X="4" Y="4"/><Vertex X="2" Y="4"/></Vertices></Region>
<Region Id="3"><Vertices><Vertex X="6.2" Y="0"/>
<Vertex X="9" Y="0"/><Vertex X="9" Y="3"/></Vertices></Region>
<Region Id="4"><Vertices><Vertex X="1" Y="1"/></Vertices></Region>
</Regions></Annotation></Annotations>"""


def test_what_imagescope_writes(tmp_path):
    (tmp_path / "a.xml").write_text(XML)
    found = read_outlines(tmp_path / "a.xml")
    assert found.mpp == 0.252
    labels = found.draw(SHAPE)
    assert (labels[1:6, 1:5] == 1).sum() == 20 - 4
    assert (labels[2:4, 2:4] == 0).all()
    assert labels[0, 8] == labels[1, 8] == 2
    assert labels.max() == 2


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><Annotations>&c;</Annotations>'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.geojson", b"{", "no JSON"),
        ("a.geojson", b"3", "no features"),
        ("a.geojson", b"[3]", "none of 1 features is a polygon"),
        (
            "a.geojson",
            json.dumps([feature([1, 2], "Point")]).encode(),
            "none of 1 features is a polygon",
        ),
        (
            "a.geojson",
            json.dumps([feature([[[0, 0], [1, 1]]])]).encode(),
            "none of 1 features is a polygon",
        ),
        (
            "a.geojson",
            json.dumps([feature([[[0, 0], ["x", 1], [2, 2]]])]).encode(),
            "none of 1 features is a polygon",
        ),
        ("a.geojson", json.dumps([feature([])]).encode(), "none of 1|no polygon"),
        ("a.geojson.gz", b"\x1f\x8b broken", "unzipped"),
        ("a.xml", b"<Annotations>", "XML"),
        ("a.xml", b"<html/>", "root is 'html'"),
        ("a.xml", BOMB.encode(), "declares entities"),
        ("a.xml", XML.replace('X="5"', "").encode(), "no 'X'"),
        ("a.xml", XML.replace('X="5"', 'X="five"').encode(), "cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as error:
        read_outlines(tmp_path / name).draw(SHAPE)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputNotFound):
        read_outlines(tmp_path / "none.xml")
