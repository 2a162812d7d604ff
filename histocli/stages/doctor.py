"""``histosynth doctor``: what works on this machine, what does not, and what to do about it.

Nothing but ``base`` is imported before it is examined, so that a broken library is found and named.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from histocli import __version__
from histocli.base.device import cpu_flags
from histocli.base.progress import Track, silent
from histocli.base.system import available_cpus
from histocli.base.text import shortened
from histocli.base.types import Json
from histocli.stages.shared.results import StageResult, Stopwatch

Verdict: TypeAlias = Literal["ok", "note", "warning", "broken"]
"""``note``: something is missing that not everybody needs; ``warning``: it works, but badly."""

DISTRIBUTION = "histosynth"
MODULES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "scikit-image": "skimage",
    "opencv-python-headless": "cv2",
    "zarr": "zarr",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "openslide-python": "openslide",
    "pillow": "PIL",
    "jinja2": "jinja2",
    "safetensors": "safetensors",
    "PyYAML": "yaml",
    "orjson": "orjson",
    "filelock": "filelock",
    "psutil": "psutil",
}
"""Packages that the commands need, and the modules that they install."""
EXTRAS = {"pyarrow": ("export", "--format parquet"), "distributed": ("dist", "segment --scheduler")}
"""Packages that few need: the extra of histosynth that installs them, and what needs them."""
LEAST_MEMORY_GB, GOOD_MEMORY_GB = 1.0, 4.0
LEAST_DISK_GB, GOOD_DISK_GB = 0.5, 10.0
GOOD_SCRATCH_GB = 2.0  # in the folder of temporary files, where ``generate`` measures references
GOOD_MB_PER_S = 50.0
GOOD_FILES_PER_S = 100.0  # a label store has a file for every 2048 x 2048 px
PROBE_MB, PROBE_FILES, PROBE_S = 64, 50, 3.0  # written at most, and for how long
CGROUP = Path("/sys/fs/cgroup")
NVIDIA = Path("/proc/driver/nvidia/version")
REINSTALL = "install it again: pip install --force-reinstall histosynth"


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    group: str
    """Heading, such as ``Devices``."""
    name: str
    found: str
    """What was found, in words."""
    verdict: Verdict = "ok"
    advice: str = ""
    """What to do about it; empty where nothing need be done."""


@dataclass(frozen=True, kw_only=True)
class DoctorResult(StageResult):
    """The result of ``doctor``; ``output`` is the folder that was examined."""

    schema: ClassVar[str] = "histosynth.doctor/1"

    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing is broken."""
        return all(finding.verdict != "broken" for finding in self.findings)

    def to_json(self) -> Json:
        """Return the JSON object of ``--json``."""
        found = [dataclasses.asdict(finding) for finding in self.findings]
        return super().to_json() | {"usable": self.usable, "findings": found}


def doctor(out: Path, *, track: Track = silent) -> DoctorResult:
    """Examine the installation, the machine and the folder where outputs are to go.

    Parameters
    ----------
    out : Path
        Folder of outputs; of one that does not exist, the nearest folder above that does. A file
        is written there for some seconds at most, and removed.

    Returns
    -------
    DoctorResult
    """
    watch = Stopwatch()
    folder = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Installation", _installation),
        ("Models", _models),
        ("Devices", _devices),
        ("Readers", _readers),
        ("Memory", _memory),
        ("Disk", lambda: _disk(folder)),
    ]
    findings: list[Finding] = []
    with track("examining", len(parts)) as bar:
        for group, examine in parts:
            try:
                findings += examine()
            except Exception as error:  # a broken library may raise anything
                broken = f"cannot be examined ({type(error).__name__}: {shortened(error)})"
                findings.append(Finding(group, group.lower(), broken, "broken", REINSTALL))
            bar.advance(1, group)
    return DoctorResult(
        output=str(folder), status="done", seconds=watch.seconds, findings=tuple(findings)
    )


def _installation() -> Iterator[Finding]:
    """Import every package, and compare its version with what histosynth asks for."""
    group = "Installation"
    system = f"{platform.system()} {platform.machine()}"
    yield Finding(group, "histosynth", f"{__version__}, Python {platform.python_version()}")
    if sys.platform.startswith("linux"):
        yield Finding(group, "system", system)
    else:
        yield Finding(group, "system", system, "note", "only Linux is tested")
    wanted = _wanted_versions()
    for package, module in MODULES.items():
        try:
            version = _version(package, importlib.import_module(module))
        except Exception as error:  # a broken library may raise anything
            found = f"cannot be imported ({type(error).__name__}: {shortened(error)})"
            yield Finding(group, package, found, "broken", f"pip install --upgrade '{package}'")
            continue
        asked = wanted.get(package.lower())
        if asked is not None and not asked.contains(version, prereleases=True):
            advice = f"pip install '{package}{asked}'"
            yield Finding(group, package, f"{version}, asked for {asked}", "warning", advice)
        else:
            yield Finding(group, package, version)
    for package, (extra, what) in EXTRAS.items():
        try:
            yield Finding(group, package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            advice = f"{what} needs it: pip install 'histosynth[{extra}]'"
            yield Finding(group, package, "not installed", "note", advice)


def _wanted_versions() -> dict[str, Any]:
    """Return the versions that histosynth asks for, by lower-case name; none if not installed."""
    with suppress(ImportError):  # PackageNotFoundError is one
        from packaging.requirements import Requirement

        asked = map(Requirement, importlib.metadata.requires(DISTRIBUTION) or ())
        return {each.name.lower(): each.specifier for each in asked if each.marker is None}
    return {}


def _version(package: str, module: Any) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name
        return str(getattr(module, "__version__", "of unknown version"))


def _models() -> Iterator[Finding]:
    """Compare the checksums of the models that come with the package."""
    from histocli.base.errors import HistosynthError
    from histocli.stores.box import box_models, read_trunk_weights, verify_box_model

    models = box_models()
    if not models:
        yield Finding("Models", "models", "none come with the package", "broken", REINSTALL)
    for model in models:
        try:
            verify_box_model(model)
        except HistosynthError as error:
            yield Finding("Models", model.name, str(error), "broken", REINSTALL)
        else:
            default = " (default)" if model.default else ""
            yield Finding("Models", model.name, f"complete{default}")
    try:
        read_trunk_weights()
    except HistosynthError as error:
        yield Finding("Models", "trunk of size T", str(error), "warning", REINSTALL)


def _devices() -> Iterator[Finding]:
    """Look at processors and GPUs, and the number formats that they compute fast."""
    import torch

    group, flags = "Devices", cpu_flags()
    granted, there = available_cpus(), os.cpu_count() or 1
    advice = "a quota or the scheduler grants fewer than there are; ask it for more"
    few = granted < there
    found = f"{granted} of {there} processors, {torch.get_num_threads()} threads of torch"
    yield Finding(group, "processors", found, "note" if few else "ok", advice if few else "")
    bf16 = sorted(flags & {"avx512_bf16", "amx_bf16"})
    int8 = sorted(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})
    if bf16:
        yield Finding(group, "bfloat16 on the CPU", f"{', '.join(bf16)}: --precision auto takes it")
    else:
        slow = "no instructions for it: --precision auto takes float32"
        advice = "nothing; networks run faster on processors with AVX512_BF16 or AMX, or on a GPU"
        yield Finding(group, "bfloat16 on the CPU", slow, "note", advice)
    yield Finding(
        group, "int8 on the CPU", ", ".join(int8) or "no instructions for it (VNNI, AMX)",
        "ok" if int8 else "note",
    )  # fmt: skip
    yield from _gpus()


def _gpus() -> Iterator[Finding]:
    import torch

    group = "Devices"
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if about.major >= 8 else "float32 only"
        try:
            torch.zeros(1, device=f"cuda:{index}").add_(1).item()
        except RuntimeError as error:
            found = f"{about.name} fails ({shortened(error)})"
            advice = "update its driver, or use --device cpu"
            yield Finding(group, f"cuda:{index}", found, "broken", advice)
        else:
            found = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {bf16}"
            yield Finding(group, f"cuda:{index}", found)
    if torch.backends.mps.is_available():
        advice = "--device auto does not take it; try --device mps"
        yield Finding(group, "mps", "Apple GPU", "note", advice)
    if torch.cuda.device_count():
        return
    if not NVIDIA.exists():
        advice = "nothing; everything runs on the CPU, trainings take longer"
        yield Finding(group, "GPU", "none", "note", advice)
    elif torch.version.cuda is None:
        advice = "install torch with CUDA: see https://pytorch.org/get-started/locally/"
        yield Finding(
            group, "GPU", "there is one, but torch is built without CUDA", "warning", advice
        )
    else:
        advice = "check CUDA_VISIBLE_DEVICES, the driver, and --gpus all in Docker"
        yield Finding(group, "GPU", "there is one, but torch does not see it", "warning", advice)


def _readers() -> Iterator[Finding]:
    """Write and read a little image with every library that reads slides."""
    readers = {
        "tifffile (SVS, TIFF, NDPI)": _read_tiff,
        "imagecodecs (PNG, JPEG, JPEG 2000)": _read_codecs,
        "openslide (MRXS, SCN, CZI, DICOM)": _read_openslide,
        "zarr (OME-Zarr)": _read_zarr,
    }
    for name, read in readers.items():
        try:
            yield Finding("Readers", name, read())
        except Exception as error:  # a broken library may raise anything
            found = f"fails ({type(error).__name__}: {shortened(error)})"
            yield Finding("Readers", name, found, "broken", REINSTALL)


def _read_tiff() -> str:
    import numpy as np
    import tifffile

    image, stream = np.full((32, 32, 3), 200, np.uint8), io.BytesIO()
    tifffile.imwrite(stream, image, tile=(16, 16), compression="jpeg", photometric="rgb")
    stream.seek(0)
    assert abs(int(tifffile.imread(stream).mean()) - 200) < 3
    return "reads tiles in JPEG"


def _read_codecs() -> str:
    import imagecodecs
    import numpy as np

    image = np.full((32, 32, 3), 200, np.uint8)
    for codec in ("png", "jpeg8", "jpeg2k", "webp"):
        encoded = getattr(imagecodecs, f"{codec}_encode")(image)
        decoded = getattr(imagecodecs, f"{codec}_decode")(encoded)
        assert abs(int(decoded.mean()) - 200) < 3, codec
    return "reads PNG, JPEG, JPEG 2000 and WebP"


def _read_openslide() -> str:
    import openslide

    return f"library {openslide.__library_version__}"


def _read_zarr() -> str:
    import numpy as np
    import zarr

    array = zarr.create_array({}, shape=(8,), dtype="uint32", chunks=(4,), shards=(8,))
    array[:] = 7
    assert (np.asarray(array[:]) == 7).all()
    return "reads and writes shards"


def _memory() -> Iterator[Finding]:
    """Compare the free memory, which a container may limit, with what the commands take."""
    import psutil

    memory = psutil.virtual_memory()
    free, limited = float(memory.available), ""
    with suppress(OSError, ValueError):  # no cgroup v2 here, or the limit is "max"
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        free, limited = min(free, limit - used), f", limited to {limit / 1e9:.1f} GB"
    found = f"{free / 1e9:.1f} of {memory.total / 1e9:.1f} GB free{limited}"
    verdict = _judged(free / 1e9, LEAST_MEMORY_GB, GOOD_MEMORY_GB)
    advice = f"segment with --max-memory {max(free / 1.5e9, 0.8):.1f}G, use fewer --workers"
    yield Finding("Memory", "memory", found, verdict, "" if verdict == "ok" else advice)


def _disk(folder: Path) -> Iterator[Finding]:
    """Measure free space and the speed of writing where outputs go."""
    group = "Disk"
    free = shutil.disk_usage(folder).free / 1e9
    verdict = _judged(free, LEAST_DISK_GB, GOOD_DISK_GB)
    advice = "" if verdict == "ok" else "free some space, or write to another place with -o/--out"
    yield Finding(group, "space for outputs", f"{free:.1f} GB free in {folder}", verdict, advice)
    scratch = tempfile.gettempdir()
    free = shutil.disk_usage(scratch).free / 1e9
    few = free < GOOD_SCRATCH_GB
    advice = "set TMPDIR to a larger folder; generate and refine need it" if few else ""
    found = f"{free:.1f} GB free in {scratch}"
    yield Finding(group, "temporary files", found, "warning" if few else "ok", advice)
    try:
        megabytes, files = measure_writing(folder)
    except OSError as error:
        found = f"{folder} cannot be written to ({error.strerror or error})"
        yield Finding(group, "writing", found, "broken", "name another folder with -o/--out")
        return
    slow = megabytes < GOOD_MB_PER_S or files < GOOD_FILES_PER_S
    advice = "write to a local disk with -o/--out, and copy what is finished" if slow else ""
    found = f"{megabytes:.0f} MB/s, {files:.0f} files/s"
    yield Finding(group, "writing", found, "warning" if slow else "ok", advice)


def _judged(value: float, least: float, good: float) -> Verdict:
    return "broken" if value < least else "warning" if value < good else "ok"


def measure_writing(folder: Path) -> tuple[float, float]:
    """Return megabytes a second of a large file, and small files a second; both reach the disk.

    Raises ``OSError`` where the folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix=".histosynth-doctor-", dir=folder) as probe:
        piece = os.urandom(1 << 20)  # file systems that compress would shrink zeros
        begun, written = time.perf_counter(), 0
        with Path(probe, "large").open("wb") as stream:
            while written < PROBE_MB and time.perf_counter() - begun < PROBE_S:
                stream.write(piece)
                written += 1
            stream.flush()
            os.fsync(stream.fileno())
        megabytes = written * len(piece) / 1e6 / (time.perf_counter() - begun)
        begun, made = time.perf_counter(), 0
        while made < PROBE_FILES and time.perf_counter() - begun < PROBE_S:
            with Path(probe, str(made)).open("wb") as stream:
                stream.write(piece[:4096])
                stream.flush()
                os.fsync(stream.fileno())
            made += 1
        return megabytes, made / (time.perf_counter() - begun)
