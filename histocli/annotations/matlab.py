"""Label images in files of MATLAB (``.mat``), as CoNSeP and the Kumar set have them.

SciPy ends the whole process on some damaged files, so a process of its own reads them.
"""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

READ = """
import io, sys
import numpy as np
from scipy.io import loadmat
try:
    content = loadmat(sys.argv[1])
except NotImplementedError:
    sys.exit("is of MATLAB 7.3; save it with -v7")
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
images = {
    name: value for name, value in content.items()
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "iufb"
    and (min(value.shape) > 1 or name == "inst_map")
}
if "inst_map" in images:
    images = {"inst_map": images["inst_map"]}
if len(images) != 1:
    named = ", ".join(sorted(images)) or "none"
    sys.exit(f"has no inst_map, and its images are not one but: {named}")
np.save(sys.stdout.buffer, np.ascontiguousarray(next(iter(images.values()))), allow_pickle=False)
"""
SECONDS = 300


def read_matlab(path: Path) -> npt.NDArray[Any]:
    """Return the array ``inst_map`` of a file, or the only image that it holds.

    Raises ``ValueError`` if the file is damaged, is of MATLAB 7.3, or does not hold one image.
    """
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    if done.returncode < 0:
        raise ValueError("SciPy cannot read it")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(said[-1] if said else "SciPy cannot read it")
    return np.asarray(np.load(io.BytesIO(done.stdout), allow_pickle=False))
