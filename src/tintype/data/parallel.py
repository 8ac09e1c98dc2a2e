"""Many images in threads: Pillow, OpenCV and zlib let go of the interpreter while they work.

Threads decode as many photographs a second as processes do (measured at 180 px with Pillow 13), start at once and
need no copies between processes. What runs in them must not call BLAS with large matrices: it would share each
product among threads of its own, which fight these (a build took 25 times as long).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

from tintype.ranks.torchrun import usable_cores
from tintype.records import OnProgress

_PROGRESS_SECONDS = 0.1


def in_slices(
    n: int, size: int, work: Callable[[int, int, Callable[[], bool]], int], what: str, on_progress: OnProgress
) -> None:
    """Run ``work(start, stop, is_stopped)`` over all slices of ``range(n)`` in threads.

    Threads take the next slice when they are free, so memory does not grow with ``n``. Progress is reported from
    the calling thread. An error, or an interrupt of the calling thread, stops all of them within one image.
    """
    starts: Iterator[int] = iter(range(0, n, size))
    taking = threading.Lock()
    stop = threading.Event()
    done = [0] * worker_count()

    def run(worker: int) -> None:
        while not stop.is_set():
            with taking:
                start = next(starts, None)
            if start is None:
                return
            done[worker] += work(start, min(start + size, n), stop.is_set)

    with quiet_pillow(), ThreadPoolExecutor(len(done), thread_name_prefix="tintype-decode") as pool:
        try:
            waiting = {pool.submit(run, worker) for worker in range(len(done))}
            while waiting:
                finished, waiting = wait(waiting, timeout=_PROGRESS_SECONDS, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                on_progress(what, sum(done), n)
        finally:
            stop.set()


def worker_count() -> int:
    """Threads for decoding: one per core that this process may use, and at most 32."""
    return min(32, usable_cores())


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata out of the user's terminal; what matters is raised instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
