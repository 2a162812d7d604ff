"""What the program imports before it knows that it needs it."""

import subprocess
import sys

from tests.stages.segment.given import tissue, write_png

HEAVY = {"torch", "skimage", "scipy", "openvino", "distributed"}


def imported_by(*words):
    """Run the program in a process of its own; return the names of all packages it imported."""
    code = (
        "import sys; from histocli.cli.app import run; code = run(sys.argv[1:]);"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    call = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_segment_imports_no_network_where_nothing_is_to_be_done(tmp_path, model):
    image = write_png(tmp_path / "a.png", tissue((60, 60)))
    words = ("segment", image, "--model", model, "--mpp", "0.5", "-o", tmp_path / "out")
    assert {"torch", "skimage"} <= imported_by(*words)
    assert not HEAVY & imported_by(*words)
