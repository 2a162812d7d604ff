"""Words of the user become files.

The tree that most tests use::

    .
    ├── slides/
    │   ├── b.TIF  a.png  notes.txt  .hidden.png
    │   ├── deep/c.ome.tif
    │   ├── d.ome.zarr/      a store with a PNG that is no input
    │   ├── .e.zarr.partial/ work of ours
    │   └── e.zarr.log/      preview.png
    └── empty/
"""

import io
import os

import pytest

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.inputs import InputImage, expand_inputs, expand_with_mpp

SUFFIXES = (".png", ".tif", ".ome.tif", ".zarr")
ALL = ["slides/a.png", "slides/b.TIF", "slides/d.ome.zarr", "slides/deep/c.ome.tif"]


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (
        "slides/deep",
        "slides/d.ome.zarr/0",
        "slides/.e.zarr.partial",
        "slides/e.zarr.log",
        "empty",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "b.TIF",
        "a.png",
        "notes.txt",
        ".hidden.png",
        "deep/c.ome.tif",
        "e.zarr.log/preview.png",
    ):
        (tmp_path / "slides" / file).touch()
    for inside in ("d.ome.zarr/0/trap.png", ".e.zarr.partial/trap.png"):
        (tmp_path / "slides" / inside).touch()
    return tmp_path


def expand(*words, stdin=None, **settings):
    found = expand_inputs(
        words,
        suffixes=SUFFIXES,
        stdin=io.StringIO(stdin) if stdin is not None else None,
        **settings,
    )
    return [path.as_posix() for path in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["slides"], ALL),
        (["slides/"], ALL),
        (["slides/*"], ALL),
        (["slides/**"], ALL),
        (["slides/**/*"], ALL),
        (["slides/*.png"], ["slides/a.png"]),
        (["slides/**/*.tif"], ["slides/deep/c.ome.tif"]),
        (["slides/notes.txt"], ["slides/notes.txt"]),
        (["slides/d.ome.zarr"], ["slides/d.ome.zarr"]),
        (["slides/.hidden.png"], ["slides/.hidden.png"]),
        (
            ["slides/b.TIF", "slides", "./slides/a.png"],
            ["slides/b.TIF", *(name for name in ALL if "b.TIF" not in name)],
        ),
    ],
)
def test_words_become_files_in_a_stable_order_without_duplicates(words, expected):
    assert expand(*words) == expected


def test_stdin_holds_plain_paths():
    assert expand("-", stdin="slides/a.png\r\n\n  \nslides/b.TIF") == [
        "slides/a.png",
        "slides/b.TIF",
    ]
    assert expand("slides/b.TIF", "-", stdin="slides\n") == [
        "slides/b.TIF",
        *(name for name in ALL if "b.TIF" not in name),
    ]


@pytest.mark.parametrize("stdin", [None, "", "\n \n"])
def test_empty_stdin_is_no_input(stdin):
    with pytest.raises(InputNotFound, match="no input") as caught:
        expand("-", stdin=stdin)
    assert caught.value.exit_code == 3


def test_a_list_counts_from_the_working_folder_and_then_from_its_own(tree):
    (tree / "slides" / "list.txt").write_text(
        "\ufeffslides/a.png\r\ndeep/c.ome.tif\n", encoding="utf-8"
    )
    assert expand("@slides/list.txt") == ["slides/a.png", "slides/deep/c.ome.tif"]


def test_names_with_odd_characters_are_names(tree):
    for name in ("a [1].png", "@me.png", "-.png", "#5.png", " pad .png", "ü.png"):
        (tree / name).touch()
    assert expand("a [1].png", "@me.png", "./-.png", "#5.png") == [
        "a [1].png",
        "@me.png",
        "-.png",
        "#5.png",
    ]
    assert expand("-", stdin=" pad .png\n#5.png\nü.png\n") == [" pad .png", "#5.png", "ü.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no input"),
        ([""], "an empty word"),
        (["absent.png"], "absent.png: no such slide"),
        (["empty"], r"empty: no slide in this folder; names must end in one of \.ome\.tif, \.png"),
        (["empty/*"], "no slide matches this pattern"),
        (["slides/*.txt"], "no slide matches this pattern"),
        (["@absent.txt"], "absent.txt: no such file"),
        (["@blank.txt"], "the list is empty"),
        (["@gone.txt"], "gone.png: no such slide"),
    ],
)
def test_what_is_not_there_is_named(tree, words, message):
    (tree / "blank.txt").write_text("\n\n")
    (tree / "gone.txt").write_text("slides/a.png\ngone.png\n")
    with pytest.raises(InputNotFound, match=message) as caught:
        expand(*words, what="slide")
    assert "\n" not in str(caught.value)


def test_a_missing_one_of_many_can_be_kept_for_its_own_failure():
    assert expand("slides/a.png", "absent.png", keep_missing=True) == ["slides/a.png", "absent.png"]


def test_a_list_must_be_text(tree):
    (tree / "list.txt").write_bytes(b"\xff\xfe\x00")
    for word in ("@list.txt", "@slides"):
        with pytest.raises(InvalidInput, match="not a text file"):
            expand(word)


def test_links_are_followed_but_not_in_circles(tree):
    (tree / "empty" / "linked").symlink_to(tree / "slides" / "deep", target_is_directory=True)
    (tree / "slides" / "deep" / "circle").symlink_to(tree / "slides", target_is_directory=True)
    assert expand("empty") == [
        "empty/linked/c.ome.tif",
        *(f"empty/linked/circle/{n}" for n in ("a.png", "b.TIF", "d.ome.zarr")),
    ]
    assert expand("slides") == ALL


def test_a_broken_link_is_kept_so_that_its_reading_fails_aloud(tree):
    (tree / "empty" / "lost.png").symlink_to(tree / "nowhere.png")
    assert expand("empty") == ["empty/lost.png"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tree):
    (tree / "slides" / "deep").chmod(0)
    with pytest.raises(InvalidInput, match="deep: the folder cannot be read"):
        expand("slides")


def manifest(tree, text, **settings):
    (tree / "slides" / "m.csv").write_text(text, encoding="utf-8")
    return expand_with_mpp(["slides/m.csv"], suffixes=SUFFIXES, **settings)


def test_a_manifest_gives_pixel_sizes_where_they_are_known(tree):
    found = manifest(
        tree, "\ufeffmpp, Path ,site\r\n0.5,a.png,x\r\n,slides/b.TIF,y\r\n0.25, deep,z\r\n"
    )
    assert [(image.path.as_posix(), image.mpp) for image in found[:2]] == [
        ("slides/a.png", 0.5),
        ("slides/b.TIF", None),
    ]
    # A folder in a manifest gives its pixel size to all of its images.
    assert [(image.path.as_posix(), image.mpp) for image in found[2:]] == [
        ("slides/deep/c.ome.tif", 0.25)
    ]


def test_words_and_manifests_mix(tree):
    (tree / "m.csv").write_text("path\nslides/a.png\n")
    found = expand_with_mpp(["slides/b.TIF", "m.csv"], suffixes=SUFFIXES)
    assert [image.path.name for image in found] == ["b.TIF", "a.png"]
    assert found[0] == InputImage(found[0].path, None)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", InvalidInput, "needs the column path"),
        ("file,mpp\na.png,1\n", InvalidInput, "needs the column path .* got file, mpp"),
        ("path,mpp\n", InputNotFound, "names no image"),
        ("path,mpp\na.png,40\n", InvalidInput, "line 2: mpp must lie between"),
        (
            "path,mpp\na.png,0.25\nslides/b.TIF,fine\n",
            InvalidInput,
            "line 3: mpp must lie .* got 'fine'",
        ),
        ("path,mpp\na.png,nan\n", InvalidInput, "line 2: mpp"),
        ("path,mpp\n,0.25\n", InvalidInput, "line 2 names no path"),
        ("path,mpp\nabsent.png,0.25\n", InputNotFound, "absent.png: no such image"),
    ],
)
def test_a_bad_manifest_is_named_with_its_line(tree, text, error, message):
    with pytest.raises(error, match=message) as caught:
        manifest(tree, text)
    assert "\n" not in str(caught.value)


def test_an_absent_manifest_is_named():
    with pytest.raises(InputNotFound, match="no such file"):
        expand_with_mpp(["absent.csv"], suffixes=SUFFIXES)
