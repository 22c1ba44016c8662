"""The processor and its cores that this process may use."""

import os
import platform
import re
from pathlib import Path

#: Instruction sets of x86 that sum products of eight bits in 32; without them two are summed in 16.
INT8_SETS = {"avx512_vnni", "avx_vnni", "amx_int8"}


def usable_cores() -> int:
    """Cores of this process's affinity, at most the quota of its control group, at least 1."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = Path("/sys/fs/cgroup/cpu.max")
    share, _, period = (quota.read_text() if quota.is_file() else "max").partition(" ")
    return max(1, cores if share == "max" else min(cores, round(int(share) / int(period))))


def processor() -> str:
    """The name of the processor's model, else its architecture."""
    return processor_field("model name") or platform.machine()


def int8_saturates() -> bool:
    """Whether sums of products of an 8-bit weight and an 8-bit activation saturate on this CPU, so
    that an INT8 file gives other answers than on others. Weights of 7 bits are right on all."""
    flags = set(processor_field("flags").split())
    return bool(flags) and not flags & INT8_SETS


def processor_field(name: str) -> str:
    """What Linux says about the first processor; empty where it says nothing."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(errors="replace") if cpu.is_file() else ""
    found = re.search(rf"^{name}\s*:\s*(.+)", text, re.MULTILINE)
    return found[1].strip() if found else ""
