"""What the machine is, and what happens on it while a contender runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Usage:
    """What one finished process used.

    Attributes:
        exit_code: 0 where it ended well; negative: the signal that ended it.
        wall_seconds: From start to end.
        peak_rss_mib: Of the process, or of one of its children where that was larger.
        other_cores: Cores kept busy by others or withheld by the host; None where ``/proc/stat`` is missing.
    """

    exit_code: int
    wall_seconds: float
    peak_rss_mib: float
    other_cores: float | None


def describe() -> dict[str, str]:
    """Processor, memory and system, as shown above the tables."""
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "Processor": f"{processor()}, {cores} cores{_vector_units()}",
        "Memory": f"{memory:.0f} GiB",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def processor() -> str:
    """The processor's name."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _vector_units() -> str:
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f" ({', '.join(units)})" if units else ""


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def run_measured(
    command: list[str], environment: dict[str, str], output: IO[bytes], errors: IO[bytes], timeout: float
) -> Usage:
    """Run a process to its end, its standard output and errors into two files, and say what it used.

    Raises:
        TimeoutError: It took longer than ``timeout`` seconds, and was killed.
    """
    busy, begin = _busy_seconds(), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors, start_new_session=True)
    while True:
        # wait4, because it alone tells the resources of this one child and its own children.
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.perf_counter() - begin > timeout:
            os.killpg(process.pid, 9)
            os.wait4(process.pid, 0)
            process.returncode = -9
            raise TimeoutError(f"{command[1]} took longer than {timeout:.0f} s.")
        time.sleep(POLL_SECONDS)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    now = _busy_seconds()
    others = None
    if busy is not None and now is not None:
        others = max(0.0, (now - busy - used.ru_utime - used.ru_stime) / wall)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Usage(process.returncode, wall, used.ru_maxrss / scale, others)


def _busy_seconds() -> float | None:
    """Processor seconds of all processes since boot, and those that the host withheld."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, path.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def drop_from_memory(folder: Path) -> None:
    """Make the system forget the contents of all files below ``folder``, so that they come from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
