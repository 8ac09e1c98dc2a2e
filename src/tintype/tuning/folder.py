"""A search's directory.

The directory::

    tune.json     the search, for programs         report.html   the same for people, one self-contained file
    winner.toml   the best settings so far, ready for `tintype train --config`
    search.toml   what was asked for; `tintype tune --resume` goes by it
    trials.db     Optuna's study, where no other storage was named
    kept/         weights of the best trial so far
    best/         the winner's run directory
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tintype.errors import RunError
from tintype.models.weights import save_weights
from tintype.records import EpochRecord
from tintype.rundir import RunDir, write_json

if TYPE_CHECKING:
    from tintype.tuning.trainer import Trained

BEST, KEPT = "best", "kept"
TRIALS, SEARCH = "trials.db", "search.toml"


class TuneFolder:
    """Typed access to a search's directory.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def trials(self) -> Path:
        """The SQLite file of the study."""
        return self.path / TRIALS

    @property
    def best(self) -> RunDir:
        """The winner's run directory."""
        return RunDir(self.path / BEST)

    def require_search(self) -> None:
        """Refuse a directory without a search.

        Raises:
            RunError: There is none.
        """
        if not (self.path / SEARCH).is_file():
            remedy = "there is nothing to resume. Start with `tintype tune DATA --budget 30m`."
            raise RunError(f"{self.path} holds no {SEARCH}: {remedy}")

    def keep(self, number: int, trained: Trained) -> None:
        """Keep a trial's weights in place of those that were kept before."""
        target = self.path / KEPT
        target.mkdir(exist_ok=True)
        history = [asdict(record) for record in trained.learnt.fitted.history]
        save_weights(trained.built.network, target / f"{number}.safetensors")
        write_json(target / f"{number}.json", {"kept_epoch": trained.learnt.fitted.kept_epoch, "history": history})
        for file in target.iterdir():
            if file.stem != str(number):
                file.unlink()

    def kept(self, number: int) -> tuple[Path, tuple[EpochRecord, ...], int] | None:
        """A trial's weights, its epochs, and which of them the weights are of; None where they were not kept."""
        weights, words = (self.path / KEPT / f"{number}{ending}" for ending in (".safetensors", ".json"))
        if not (weights.is_file() and words.is_file()):
            return None
        content = json.loads(words.read_text(encoding="utf-8"))
        return weights, tuple(EpochRecord(**row) for row in content["history"]), int(content["kept_epoch"])

    def clear_best(self) -> None:
        """Make room for a winner's run directory."""
        shutil.rmtree(self.best.path, ignore_errors=True)

    def forget_kept(self) -> None:
        """Remove weights that the winner's run directory holds now."""
        shutil.rmtree(self.path / KEPT, ignore_errors=True)
