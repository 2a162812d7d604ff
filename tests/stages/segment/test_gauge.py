"""The bar of ``segment``: it counts work, never runs past a slide, and ends at the end."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.stages.segment.gauge import Gauge, shares_of


class Bar:
    def __init__(self):
        self.at, self.notes = 0.0, []

    def advance(self, steps=1, note=""):
        assert steps >= 0
        self.at += steps
        self.notes.append(note)


def jobs_of(paths):
    return [SimpleNamespace(input=SimpleNamespace(path=path)) for path in paths]


@pytest.fixture
def files(tmp_path):
    """Two files, of which one is three times as large."""
    (tmp_path / "small.svs").write_bytes(bytes(100))
    (tmp_path / "large.svs").write_bytes(bytes(300))
    return [tmp_path / "small.svs", tmp_path / "large.svs"]


def test_shares_follow_the_size_of_files_and_add_up_to_their_number(files, tmp_path):
    assert shares_of(files) == pytest.approx([0.5, 1.5])
    (tmp_path / "slide.zarr").mkdir()
    shares = shares_of([*files, tmp_path / "slide.zarr", tmp_path / "gone.svs"])
    assert sum(shares) == pytest.approx(4)
    assert shares[2] == shares[3] == pytest.approx((shares[0] + shares[1]) / 2)
    assert shares_of([tmp_path / "gone.svs"]) == [1.0]


def test_one_slide_moves_the_bar_with_every_tile(files):
    bar, (job,) = Bar(), jobs_of(files[:1])
    gauge = Gauge([job], bar)
    gauge.begin(job, 10)
    places = []
    for _ in range(10):
        gauge.saw_tiles(job, 1)
        places.append(bar.at)
    assert places == sorted(set(places))
    assert 0 < places[0] < 0.2
    gauge.wrote(job, 10)
    assert bar.at < 1
    gauge.ended(job)
    assert bar.at == pytest.approx(1)
    assert set(bar.notes) == {"small.svs"}


@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 50))
def test_a_slide_never_takes_more_than_its_share(seen, tiles):
    """Whatever is reported, also tiles that are seen twice after an error."""
    bar, (first, second) = Bar(), jobs_of([SimpleNamespace(is_file=lambda: False, name="a")] * 2)
    gauge = Gauge([first, second], bar)
    gauge.begin(first, tiles)
    for n in seen:
        gauge.saw_tiles(first, n)
        gauge.wrote(first, n)
    assert bar.at <= 1 + 1e-9
    gauge.ended(first)
    assert bar.at == pytest.approx(1)
    gauge.ended(second)  # failed before it was begun
    assert bar.at == pytest.approx(2)


def test_blocks_that_are_done_elsewhere_count_whole(files):
    bar, (job,) = Bar(), jobs_of(files[:1])
    gauge = Gauge([job], bar)
    gauge.begin(job, 4)
    for _ in range(4):
        gauge.did(job)
    assert bar.at == pytest.approx(0.9)
