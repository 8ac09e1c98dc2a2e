"""One run of a study, in this process."""

from __future__ import annotations

import ctypes
import gc
import platform
from contextlib import suppress
from pathlib import Path

from tintype.config import RunConfig
from tintype.ranks.world import World
from tintype.run import resume_run, start_run
from tintype.watch import Watch


def make_run(config: RunConfig, path: Path, watch: Watch, world: World | None = None) -> None:
    """Start a run, or go on with what stands in its directory.

    Args:
        config: What was asked for; a run that is gone on with has its own settings on disk.
        path: The run's directory.
        watch: Progress and stopping.
        world: The ranks that make it together; None for this process.

    Raises:
        TintypeError: As :func:`tintype.run.start_run`.
    """
    # Hundreds of epochs would bury what the study has to say; every run has them in its own report.
    quiet = Watch(on_progress=watch.on_progress, should_stop=watch.should_stop)
    forget_peak_memory()
    is_there = (path / "config.toml").is_file()
    if is_there if world is None else world.agree(is_there):
        resume_run(path, quiet, world)
    else:
        start_run(config, path, quiet, world)


def forget_peak_memory() -> None:
    """Let the system measure the peak memory of the next run, not of all before it.

    On Linux freed memory is handed back and the counter set back. Elsewhere a run shows the largest peak so far.
    """
    if platform.system() != "Linux":
        return
    gc.collect()
    with suppress(OSError, AttributeError):  # a libc without malloc_trim, a system that protects the counter
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
