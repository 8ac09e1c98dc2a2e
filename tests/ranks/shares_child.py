"""A rank of the runs in test_shares_*.py: goes through all scenarios with the others and writes down what it saw."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import filelock
import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data import decoding
from tintype.data.cache import ImageCache, build_cache
from tintype.data.decode import decode_with_header, geometry_of
from tintype.data.features import FeatureCache, open_features
from tintype.data.same import require_same_images
from tintype.data.sources import read_index
from tintype.ranks.world import World
from tintype.records import OnProgress, silent

SIZE = 128
DECODED: list[int] = []
SEEN: dict[str, Any] = {}

root, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def config_of(photos: str, **changes: object) -> DataConfig:
    given = {"source": str(root / photos), "image_size": SIZE, "color": "rgb", "resize": "pad", **changes}
    return DataConfig.model_validate(given)


def use_cache(name: str) -> Path:
    os.environ["TINTYPE_CACHE"] = str(root / name)
    return root / name


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/*") if path.suffix != ".lock")


def count_decodes() -> None:
    real = decode_with_header

    def counted(data: Any, *rest: Any) -> Any:
        DECODED.append(decoding.content_hash(data))
        return real(data, *rest)

    patch("tintype.data.decoding.decode_with_header", counted).start()


def build(world: World, photos: str, on_progress: OnProgress = silent, **changes: object) -> dict[str, Any]:
    DECODED.clear()
    config = config_of(photos, **changes)
    cache = build_cache(read_index(config), config, on_progress, world)
    return {**summary(cache), "decoded": sorted(DECODED)}


def summary(cache: ImageCache) -> dict[str, Any]:
    return {"was_built": cache.was_built, "sharing": cache.sharing, "fingerprint": cache.fingerprint}


def attempt(work: Callable[[], Any]) -> dict[str, Any]:
    """What came of it, or the error."""
    try:
        return {"value": work()}
    except BaseException as error:
        return {"error": type(error).__name__, "text": str(error)}


def value(view: int, image: int) -> NDArray[np.float32]:
    return (1 + image + 1000 * view + np.arange(6).reshape(2, 3) / 8).astype(np.float32)


def features(
    world: World | None, most_bytes: int = 2**30, fails: bool = False, on_progress: OnProgress = silent
) -> tuple[FeatureCache, list[tuple[int, int]]]:
    """Frozen layers over 50 images, one of them unusable, in two views; and what was asked of them here."""
    config = config_of("photos-0")
    index = read_index(config)
    index = replace(index, paths=index.paths[:50], labels=index.labels[:50], given_split=index.given_split[:50])
    asked: list[tuple[int, int]] = []

    def run(view: int, images: NDArray[np.int64]) -> NDArray[np.float32]:
        if fails:
            raise ValueError("this layer is broken")
        asked.extend((view, image) for image in images.tolist())
        return np.stack([value(view, image) for image in images.tolist()])

    usable = np.arange(50) != 3
    cache = open_features(
        index, "key", (2, 3), False, usable, np.arange(0, 50, 2), 2, "light", run, block_rows=4,
        most_bytes=most_bytes, on_progress=on_progress, world=world,
    )  # fmt: skip
    return cache, asked


# --- what two ranks do ------------------------------------------------------------------------------------------


def separate_disks(world: World) -> Any:
    use_cache(f"separate-{rank}")
    progress: list[tuple[str, int, int]] = []
    first = build(world, f"photos-{rank}", lambda *call: progress.append(call))
    return {"first": first, "again": build(world, f"photos-{rank}"), "progress": progress}


def one_lacks_it(world: World) -> Any:
    folder = use_cache(f"separate-{rank}")
    if rank == 1:
        shutil.rmtree(folder)
    return build(world, f"photos-{rank}")


def slow_link(world: World) -> Any:
    use_cache(f"slow-{rank}")
    with patch("tintype.data.shares.why_apart", lambda *_: "the link is slow"):
        return build(world, f"photos-{rank}")


def bad_images(world: World) -> Any:
    folder = use_cache(f"bad-{rank}")
    refused = attempt(lambda: build(world, f"bad-photos-{rank}"))
    left = left_behind(folder)
    return {"refused": refused, "left": left, "skipped": build(world, f"bad-photos-{rank}", skip_bad=True)}


def full_disk(world: World) -> Any:
    folder = use_cache(f"full-{rank}")
    real, calls = os.pwrite, [0]

    def pwrite(*rest: Any) -> int:
        calls[0] += 1
        if rank == 1 and calls[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*rest)

    with patch.object(os, "pwrite", pwrite):
        outcome = attempt(lambda: build(world, f"photos-{rank}"))
    return {**outcome, "left": left_behind(folder), "threads": threading.active_count()}


def no_folder(world: World) -> Any:
    if rank == 1:
        (root / "file").touch()
    use_cache("file" if rank == 1 else "fine")
    return attempt(lambda: build(world, f"photos-{rank}"))


def interrupted(world: World) -> Any:
    folder = use_cache(f"interrupted-{rank}")

    def interrupt(what: str, done: int, total: int) -> None:
        if rank == 1:
            raise KeyboardInterrupt

    outcome = attempt(lambda: build(world, f"photos-{rank}", interrupt))
    return {**outcome, "left": left_behind(folder)}


def a_stranger_holds_the_lock(world: World) -> Any:
    folder = use_cache(f"separate-{rank}")
    (final,) = [path for path in (folder / "images").iterdir() if path.is_dir()]
    shutil.rmtree(final)
    lock = filelock.FileLock(final.with_name(final.name + ".lock"))
    told, free = [], []

    def on_progress(what: str, done: int, total: int) -> None:
        told.append(what)
        if what.startswith("waiting"):
            if rank == 1:
                lock.release()
            else:  # this rank has got its own lock, and must not sit on it while another waits
                with filelock.FileLock(lock.lock_file).acquire(timeout=0):
                    free.append(True)

    if rank == 1:
        lock.acquire()
    world.wait()
    return {**build(world, f"photos-{rank}", on_progress), "told": sorted(set(told)), "free": free}


def other_data(world: World) -> Any:
    found = {}
    for name in ("fewer", "renamed", "relabelled", "changed", "resized", "same"):
        size_here = SIZE - 1 if rank == 1 and name == "resized" else SIZE
        config = config_of(f"other-{name}" if rank == 1 else "photos-0", image_size=size_here)
        found[name] = attempt(partial(require_same_images, read_index(config), geometry_of(config), world))
    return found


def frozen_layers(world: World) -> Any:
    use_cache(f"features-{rank}")
    progress: list[tuple[str, int, int]] = []
    cache, asked = features(world, on_progress=lambda *call: progress.append(call))
    clean = all(np.array_equal(cache.clean[i], value(0, i) if i != 3 else np.zeros((2, 3))) for i in range(50))
    changed = all(np.array_equal(row, value(1, 2 * i)) for i, row in enumerate(cache.changed[0]))
    (view,) = (root / f"features-{rank}" / "features").glob("key-view1-*/")
    if rank == 0:
        shutil.rmtree(view)
    again, asked_again = features(world)
    return {
        "right": clean and changed and np.array_equal(again.changed[0], cache.changed[0]), "asked": asked,
        "sharing": [cache.sharing, again.sharing, features(world)[0].sharing], "asked_again": asked_again,
        "was_built": [cache.was_built, again.was_built], "progress": progress,
    }  # fmt: skip


def broken_layers(world: World) -> Any:
    folder = use_cache(f"broken-{rank}")
    return {**attempt(lambda: features(world, fails=rank == 1)), "left": left_behind(folder)}


# --- what three do ----------------------------------------------------------------------------------------------


def one_folder(world: World) -> Any:
    use_cache("shared")
    return build(world, "photos-0")


def two_folders(world: World) -> Any:
    use_cache("two-a" if rank != 1 else "two-b")
    return build(world, "photos-0")


def one_folder_under_other_names(world: World) -> Any:
    """Copies of the data have other names in a cache that is shared."""
    use_cache("names")
    return build(world, f"photos-{rank % 2}")


def one_dies(world: World) -> Any:
    folder = use_cache(f"dies-{rank}")
    if rank == 2:
        patch("tintype.data.decoding.decode_with_header", lambda *_: os._exit(9)).start()
    start = time.monotonic()
    outcome = attempt(lambda: build(world, "photos-0"))
    return {"error": outcome["error"], "left": left_behind(folder), "seconds": time.monotonic() - start}


PAIRS = [
    separate_disks, one_lacks_it, slow_link, bad_images, full_disk, no_folder, interrupted, a_stranger_holds_the_lock,
    other_data, frozen_layers, broken_layers,
]  # fmt: skip
ALL = [one_folder, two_folders, one_folder_under_other_names, one_dies]


def main() -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=size)
    pair, everybody = dist.new_group([0, 1]), dist.new_group()
    hosts = ("a", "b", "c")
    count_decodes()
    patch("tintype.data.joint.block_rows", lambda _: 7).start()  # many messages, none of them a whole block
    for scenarios, count, group in ((PAIRS, 2, pair), (ALL, 3, everybody)):
        for scenario in scenarios:
            if rank < count:
                assert isinstance(group, dist.ProcessGroup)
                world = World(rank, count, rank, count, hosts[:count], group=group)
                start = time.monotonic()
                SEEN[scenario.__name__] = scenario(world)
                SEEN[f"{scenario.__name__} seconds"] = time.monotonic() - start
                (root / f"seen-{rank}.json").write_text(json.dumps(SEEN))
    os._exit(0)  # a rank is gone; saying goodbye would wait for it


main()
