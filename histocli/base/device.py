"""Turn the device and number format that the user names into those of torch.

A stage (the code of one command) resolves a device once; other code uses the device of its tensors.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.base.errors import DeviceUnavailable, InvalidOption
from histocli.base.memory import reuse_freed_memory
from histocli.base.system import available_cpus

if TYPE_CHECKING:
    import torch

CPU_INFO = Path("/proc/cpuinfo")


def resolve_device(name: str) -> torch.device:
    """Turn ``auto`` (CUDA, else CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device.

    Raises
    ------
    DeviceUnavailable
        The machine does not have the device.
    InvalidOption
        The name is none of the above.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        raise InvalidOption(f"--device must be auto, cpu, cuda, cuda:<number> or mps, got {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"--device {name}: this machine offers {torch.cuda.device_count()} CUDA devices "
            "(CUDA_VISIBLE_DEVICES counts); use --device auto or cpu"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceUnavailable(
            "--device mps: Metal is not available on this machine; use --device auto or cpu"
        )
    return torch.device(name)


def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags, or an empty set where the system does not list them."""
    with suppress(OSError):
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Choose the number format of convolutions; ``auto`` takes bfloat16 where that is faster."""
    import torch

    if name not in ("auto", "fp32", "bf16"):
        raise InvalidOption(f"--precision must be auto, fp32 or bf16, got {name!r}")
    if name == "fp32":
        return torch.float32
    if name == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # a processor without one of these instructions emulates bfloat16, slower than float32
    is_fast = device.type == "cpu" and cpu_flags() & {"amx_bf16", "avx512_bf16"}
    return torch.bfloat16 if is_fast else torch.float32


def prepare_process() -> None:
    """Keep freed memory, and limit torch to the granted processors, since it ignores quotas."""
    import torch

    reuse_freed_memory()
    if torch.get_num_threads() > available_cpus():
        torch.set_num_threads(available_cpus())


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which convolutions compute in ``dtype``; no effect for float32."""
    import torch

    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
