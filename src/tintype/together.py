"""What makes one run of several processes: who has the run directory, whether all see the same images, what all return.

A run by a single process passes through here unchanged.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from tintype.config import ParallelConfig, RunConfig, load_config
from tintype.errors import ConfigError
from tintype.preparing import Prepared
from tintype.ranks.joining import joined, require_equal
from tintype.ranks.outcome import RUN, recall, remember
from tintype.ranks.torchrun import rank_of_process
from tintype.ranks.world import World
from tintype.recording import new_run_dir
from tintype.rundir import RunDir
from tintype.training.checkpoint import CHECKPOINT, position
from tintype.watch import Watch, log_watch

RETURNED = ("config.toml", "evaluation.json", "curves.json", "history.jsonl", "findings.json")
"""Files of a run that :func:`tintype.run.load_run` reads."""


def ranks_of(world: World | None, parallel: ParallelConfig) -> AbstractContextManager[World]:
    """The ranks that make a run: those that are given, or else all that torchrun has started.

    Raises:
        RankError: Another rank runs another version, has not come, or is gone.
        ConfigError: Workers are wanted, and this is a single process.
    """
    if world is not None:
        return nullcontext(world)
    workers = parallel.workers or 1
    if workers > 1 and rank_of_process() is None:
        raise ConfigError(
            f"parallel.workers is {workers}, and this is a single process: start them with `tintype train --workers "
            f"{workers}` or with torchrun."
        )
    return joined(parallel.patience_seconds)


def agree_on_run_dir(world: World, output: Path | None, source: Path) -> tuple[RunDir, World]:
    """The run directory, and the world with the rank that writes it.

    When torchrun has started the processes anew it is the directory of before, and the rank with the newest checkpoint
    writes: on separate disks, ranks may have changed places.

    Args:
        world: The ranks.
        output: The directory that was asked for.
        source: The data, whose name it gets otherwise.

    Raises:
        RunError: ``output`` exists and is not empty.
    """
    before = world.agree(recall(RUN)) if world.attempt else None
    if before is not None:
        run_dir = RunDir(Path(before))
        return run_dir, elected(world, run_dir)
    path = world.ask_writer(lambda: str(new_run_dir(output, source).path))
    if not world.is_alone:
        remember(RUN, path)
    return RunDir(Path(path)), world


def elected(world: World, run_dir: RunDir) -> World:
    """The world with that rank as writer which has the newest checkpoint of a run; the first of equals."""
    found = world.exchange((run_dir.is_complete, (run_dir / "config.toml").is_file(), *position(run_dir / CHECKPOINT)))
    return replace(world, writer=found.index(max(found)))


def settings_of(world: World, run_dir: RunDir, source: str | None = None) -> RunConfig:
    """The settings that the writer's run directory holds.

    Args:
        world: The ranks.
        run_dir: The run.
        source: Where this rank has the images; None where the writer's place is every rank's.

    Raises:
        ConfigError: They cannot be read.
    """
    tree = world.ask_writer(lambda: load_config(run_dir / "config.toml").model_dump(mode="json"))
    config = RunConfig.model_validate(tree)
    return config if source is None else config.replace({"data.source": source})


def own_watch(world: World, run_dir: RunDir, watch: Watch) -> Watch:
    """Rank 0 talks to the user; the others write to files of their own, ``rankN.log``."""
    return watch if world.rank == 0 else log_watch(run_dir / f"rank{world.rank}.log", watch)


def require_same_data(world: World, data: Prepared) -> None:
    """Refuse ranks that see other images or would train on other ones.

    Raises:
        RankError: With the ranks that differ.
    """
    if world.is_alone:
        return
    split = data.split
    parts = [part.tobytes() for part in (split.train, split.validation, split.test)]
    digest = hashlib.blake2b(b"|".join([data.cache.fingerprint.encode(), *parts]), digest_size=6).hexdigest()
    described = f"{len(data.cache.index):,} images, {len(split.train):,} to train on ({digest})"
    require_equal(world, "data", world.exchange(described), "Copy the same images to every machine.")


@contextmanager
def returned(world: World, run_dir: RunDir) -> Iterator[Path]:
    """A folder with what a finished run returns, on every rank; who did not write it gets copies for the moment."""
    if world.is_alone:
        yield run_dir.path
        return
    files = world.ask_writer(lambda: {name: (run_dir / name).read_text(encoding="utf-8") for name in RETURNED})
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_text(content, encoding="utf-8")
        yield Path(folder)
