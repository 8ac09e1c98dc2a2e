"""A study's directory: where each run stands, and what must not be written over.

The directory::

    study.toml       what was asked for; `tintype study` repeats it
    study.json       the table, for programs        study.csv   the same for spreadsheets
    report.html      the table with figures, one self-contained file
    range_test.json  the learning-rate range test, where the study began with one
    requests/        the settings that each run was asked for, before anything was chosen
    runs/            a run directory for each point and seed
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tintype.config import RunConfig, load_config
from tintype.errors import RunError
from tintype.rundir import RunDir, write_text
from tintype.studies.plan import Request


class StudyFolder:
    """Typed access to a study's directory.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, name: str) -> RunDir:
        """The directory of a run."""
        return RunDir(self.path / "runs" / name)

    def assign(self, requests: Sequence[Request]) -> dict[str, str]:
        """Name of each request to the name of the run that answers it; nothing is trained twice.

        Requests with equal settings share a run, and a run that is on disk already answers every request for its
        settings, whatever its point was called then.
        """
        known: dict[str, str] = {}
        files = sorted((self.path / "requests").glob("*.toml"))
        for file in sorted(files, key=lambda item: self.run(item.stem).is_complete):  # a finished one wins
            if self.run(file.stem).path.exists():
                known[load_config(file).to_toml()] = file.stem
        found = {}
        for request in requests:
            found[request.name] = known.setdefault(request.config.to_toml(), request.name)
        return found

    def request_file(self, name: str) -> Path:
        """The file with the settings that a run was asked for."""
        return self.path / "requests" / f"{name}.toml"

    def log_file(self, name: str) -> Path:
        """The file with what the process of a run wrote on stderr, where it wrote anything."""
        return self.path / "requests" / f"{name}.log"

    def was_asked_for(self, name: str, config: RunConfig) -> bool:
        """Whether a run was begun with these settings."""
        file = self.request_file(name)
        return file.is_file() and load_config(file) == config

    def prepare(self, name: str, config: RunConfig) -> Path:
        """Make room for a run that is to begin, or leave what can be gone on with.

        Returns:
            The run's directory.
        """
        path = self.run(name).path
        if not (path / "config.toml").is_file():
            if path.exists():
                shutil.rmtree(path)  # killed before it had begun to train; refuse_strangers knows it is ours
            write_text(self.request_file(name), config.to_toml())
        return path

    def refuse_strangers(self, requests: Sequence[Request], assigned: dict[str, str]) -> None:
        """Refuse before any work where runs of other settings, or somebody's other files, stand in the way.

        Raises:
            RunError: In one line that says what stands there and what to do.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir() or (any(self.path.iterdir()) and not (self.path / "study.toml").is_file()):
            raise RunError(f"{self.path} exists already and is not a study's directory. Choose another one with -o.")
        for request in requests:
            name = assigned[request.name]
            run, file = self.run(name).path, self.request_file(name)
            if not run.exists():
                continue
            if not file.is_file():
                raise RunError(f"{run} was not made by this study. Move it away, or choose another directory with -o.")
            asked_for = load_config(file)
            if asked_for != request.config:
                setting, then, now = _first_difference(asked_for, request.config)
                raise RunError(
                    f"{run} was made with {setting} = {then}, and now it is {now}: one table would mix the two. "
                    "Choose another directory with -o, or delete this one."
                )


def _first_difference(one: RunConfig, other: RunConfig) -> tuple[str, Any, Any]:
    then, now = (_dotted(config.model_dump()) for config in (one, other))
    setting = next(name for name in {**then, **now} if then.get(name) != now.get(name))
    return setting, then.get(setting), now.get(setting)


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
