"""What this machine is: the part of a measurement's validity that the hardware decides."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxruntime

_RELEVANT_FLAGS = frozenset(
    {
        "avx",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_int8",
        "amx_bf16",
        "fma",
        "asimd",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where a measurement was taken, as far as it decides which kernels run.

    Attributes:
        architecture: For example `x86_64`.
        processor: The processor's own name.
        cpu_features: Instruction sets that onnxruntime's kernels look for, sorted.
        cpus: Processors this process may use, whole ones.
        onnxruntime: Version of the runtime.
        gpus: Names of the NVIDIA GPUs, sorted; they decide what is measured with provider cuda.
    """

    architecture: str
    processor: str
    cpu_features: tuple[str, ...]
    cpus: int
    onnxruntime: str
    gpus: tuple[str, ...] = ()

    @property
    def has_vnni(self) -> bool:
        """Whether int8 products accumulate without saturating in 16 bits."""
        return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(self.cpu_features))

    @property
    def is_arm(self) -> bool:
        """Whether the processor is a 64-bit Arm."""
        return self.architecture in ("aarch64", "arm64")

    def difference(self, other: Host) -> str:
        """Why a certificate of `self` is void on `other`; empty when it is valid there."""
        if self.architecture != other.architecture:
            return f"processor architecture was {self.architecture}, is {other.architecture}"
        if self.cpu_features != other.cpu_features:
            changed = sorted(set(self.cpu_features) ^ set(other.cpu_features))
            return f"CPU features differ: {', '.join(changed)}"
        if self.onnxruntime != other.onnxruntime:
            return f"onnxruntime was {self.onnxruntime}, is {other.onnxruntime}"
        if self.cpus != other.cpus:
            return f"measured with {self.cpus} processors, this server may use {other.cpus}"
        if self.gpus != other.gpus:
            gpus = (", ".join(host.gpus) or "none" for host in (self, other))
            return "GPUs were {}, are {}".format(*gpus)
        return ""


def cpu_budget() -> float:
    """Processors this process may use: the smaller of its affinity and its cgroup's quota."""
    available = float(len(os.sched_getaffinity(0)))
    return min([available, *_cgroup_quotas()])


def memory_available_bytes() -> int:
    """Memory that may still be taken: the smaller of the machine's and the cgroup's."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    machine = next(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable")
    )
    root = Path("/sys/fs/cgroup")
    for limit_file, usage_file, detail_file in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        limit, usage = _number(root / limit_file), _number(root / usage_file)
        if limit is not None and usage is not None:
            held = usage - _droppable_bytes(root / detail_file)
            machine = min(machine, max(0, int(limit - held)))
    return machine


@cache
def this_host(cpus: int | None = None) -> Host:
    """Describe this machine; `cpus` overrides the number of processors the server hands out."""
    processor, flags = _processor()
    return Host(
        architecture=platform.machine(),
        processor=processor,
        cpu_features=tuple(sorted(flags & _RELEVANT_FLAGS)),
        cpus=cpus if cpus is not None else max(1, int(cpu_budget())),
        onnxruntime=onnxruntime.__version__,
        gpus=tuple(sorted(_gpus())),
    )


def _processor() -> tuple[str, frozenset[str]]:
    name, flags = platform.machine(), frozenset[str]()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                name = value.strip()
            case "flags" | "Features":
                return name, frozenset(value.split())
    return name, flags


def _gpus() -> Iterator[str]:
    """NVIDIA GPUs as their driver tells them, without loading any library."""
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                yield value.strip()


def _cgroup_quotas() -> Iterator[float]:
    """Processors allowed by this process's control group and by each one above it."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, own = line.split(":", maxsplit=2)
        if not controllers:
            mount, quota = root, _quota_v2
        elif "cpu" in controllers.split(","):
            mount, quota = root / "cpu", _quota_v1
        else:
            continue
        group = mount / own.lstrip("/")
        for directory in (group, *group.parents):
            if directory.is_relative_to(mount) and (processors := quota(directory)):
                yield processors


def _quota_v2(group: Path) -> float:
    """Processors that a group may use; 0 without a limit."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else int(quota) / int(period)


def _quota_v1(group: Path) -> float:
    """Processors that a group may use; 0 without a limit, which is -1 in the file."""
    quota, period = (_number(group / f"cpu.cfs_{one}_us") for one in ("quota", "period"))
    return quota / period if quota and period and quota > 0 else 0


def _droppable_bytes(path: Path) -> int:
    """Cached file pages that count as used but are given back when memory is short."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
