"""The machine that measurements were made on."""

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CLASS_DIGITS = 12
# The features that decide which kernels a runtime picks, x86 first, then Arm.
SPEED_FLAGS = (
    "sse4_1",
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)


@dataclass(frozen=True, slots=True)
class Host:
    """A CPU. `flags` are its `SPEED_FLAGS`; hosts of one `host_class` have the same CPU and number of cores."""

    cpu: str
    flags: tuple[str, ...]
    cores: int
    host_class: str


@lru_cache(maxsize=1)
def describe_host() -> Host:
    """The host of this process, from /proc/cpuinfo where there is one."""
    fields: dict[str, str] = {}
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    cpu = fields.get("model name") or platform.processor() or platform.machine()
    every_flag = sorted((fields.get("flags") or fields.get("Features") or "").split())
    cores = os.cpu_count() or 1
    digest = hashlib.sha256("\n".join((cpu, *every_flag, str(cores))).encode()).hexdigest()
    return Host(cpu, tuple(flag for flag in SPEED_FLAGS if flag in every_flag), cores, digest[:CLASS_DIGITS])
