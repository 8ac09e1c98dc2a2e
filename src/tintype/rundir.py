"""The run directory: what is in it, read and written so that a kill at any moment leaves it whole.

Every file is written as temporary file, fsync, rename. Nothing here imports torch, so reports and comparisons
start fast and need only the directory.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs

from tintype.errors import RunError
from tintype.records import (
    SPLITS,
    EpochRecord,
    Evaluation,
    Finding,
    Interval,
    LayerRow,
    ModelSummary,
    Predictions,
    to_plain,
)

FORMAT_VERSION = 1

_LOCK = ".lock"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on leaving without an error it is synced and renamed onto it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; records and arrays are turned into plain values."""
    write_text(path, json.dumps(to_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def cache_folder() -> Path:
    """The user's folder for decoded images and kept features: ``TINTYPE_CACHE``, or the platform's cache folder."""
    given = os.environ.get("TINTYPE_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("tintype", appauthor=False))


def numbered(path: Path, is_taken: Callable[[Path], bool]) -> Path:
    """The path, or else the first of ``NAME-2``, ``NAME-3``, ... that is not taken."""
    candidate, number = path, 1
    while is_taken(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def require_new(path: Path, remedy: str, ignored: str = _LOCK) -> None:
    """Refuse a directory that holds something.

    Args:
        path: The directory; it need not exist.
        remedy: What to do instead of it, a clause after "Take another name, or".
        ignored: Pattern of names that count for nothing.

    Raises:
        RunError: It does.
    """
    if path.exists() and (not path.is_dir() or any(not item.match(ignored) for item in path.iterdir())):
        raise RunError(f"{path} exists already and is not empty. Take another name, or {remedy}.")


@contextmanager
def only_one_process(path: Path) -> Iterator[None]:
    """Hold a directory, which is made where need be, and taken away again where nothing came into it.

    Raises:
        RunError: It cannot be made, or another process holds it.
    """
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / _LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is at work on {path}. Wait for it, or choose another with -o.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path} cannot be written: {reason}. Choose another directory with -o.") from None
    try:
        yield
    finally:
        lock.release()
        if is_new and [item.name for item in path.iterdir()] in ([], [_LOCK]):
            shutil.rmtree(path, ignore_errors=True)


def source_hash() -> str:
    """Hash of tintype's own source files, so that a result can be traced to the code that made it."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class RunDir:
    """Typed access to the files of one run directory.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def is_complete(self) -> bool:
        """True when training and evaluation have ended; ``evaluation.json`` is written last but the report."""
        return (self / "evaluation.json").is_file()

    @property
    def name(self) -> str:
        """The directory's own name, as used in headings."""
        return self.path.resolve().name

    def require_there(self) -> None:
        """Raise :class:`RunError` unless there is such a directory."""
        if not self.path.is_dir():
            raise RunError(f"there is no run directory {self.path}. `tintype train DATA -o {self.path}` makes one.")

    def require_complete(self) -> None:
        """Raise :class:`RunError` unless the run has ended."""
        self.require_there()
        if not (self / "config.toml").is_file():
            raise RunError(f"{self.path} is not a run directory: it holds no config.toml.")
        if not self.is_complete:
            raise RunError(f"{self.path} is not finished. `tintype train --resume {self.path}` goes on with it.")

    def read_json(self, name: str) -> Any:
        """Read one JSON file of the run.

        Raises:
            RunError: The file is missing or damaged.
        """
        try:
            return json.loads((self / name).read_text(encoding="utf-8", errors="surrogateescape"))
        except FileNotFoundError:
            raise RunError(f"{self.path} holds no {name}; is it a finished run?") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self / name} cannot be read: {error}.") from None

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file of the run atomically."""
        write_json(self / name, content)

    def write_history(self, history: Sequence[EpochRecord]) -> None:
        """Write ``history.jsonl``, a row per epoch."""
        rows = "".join(json.dumps(asdict(record), allow_nan=False) + "\n" for record in history)
        write_text(self / "history.jsonl", rows)

    def read_history(self) -> list[EpochRecord]:
        """Read ``history.jsonl``."""
        try:
            lines = (self / "history.jsonl").read_text(encoding="utf-8").splitlines()
            return [EpochRecord(**json.loads(line)) for line in lines if line]
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{self / 'history.jsonl'} cannot be read: {error}.") from None

    def write_evaluation(self, evaluations: Sequence[Evaluation]) -> None:
        """Write ``curves.json``, then ``evaluation.json``: split, metric, ``{value, low, high, n}``."""
        self.write_json("curves.json", {item.split: item.curves for item in evaluations})
        self.write_json("evaluation.json", {item.split: item.metrics for item in evaluations})

    def read_evaluation(self) -> dict[str, Evaluation]:
        """Read the evaluations by split."""
        metrics, curves = self.read_json("evaluation.json"), self.read_json("curves.json")
        return {
            split: Evaluation(
                split,
                {name: Interval(**item) for name, item in metrics[split].items()},
                curves.get(split, {}),
            )
            for split in SPLITS
            if split in metrics
        }

    def write_findings(self, findings: Sequence[Finding]) -> None:
        """Write ``findings.json``, the most severe first."""
        self.write_json("findings.json", sort_findings(findings))

    def read_findings(self) -> list[Finding]:
        """Read ``findings.json``."""
        return [Finding(**{**item, "evidence": tuple(item["evidence"])}) for item in self.read_json("findings.json")]

    def read_summary(self) -> ModelSummary:
        """Read the layer table, ``summary.json``."""
        content = self.read_json("summary.json")
        rows = tuple(LayerRow(**{**row, "output_shape": tuple(row["output_shape"])}) for row in content["layers"])
        return ModelSummary(**{**content, "layers": rows})

    def write_predictions(self, predictions: Sequence[Predictions]) -> None:
        """Write ``predictions.csv``: split, path, label, predicted, then a probability per class."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)  # its \r\n makes it quote a lone \r or \n in a name
        classes = predictions[0].classes
        writer.writerow(["split", "path", "label", "predicted", *(f"probability/{name}" for name in classes)])
        for item in predictions:
            for path, label, predicted, row in zip(
                item.paths,
                item.labels.tolist(),
                item.predicted.tolist(),
                item.probabilities.tolist(),
                strict=True,
            ):
                known = classes[label] if label >= 0 else ""
                writer.writerow([item.split, path, known, classes[predicted], *(f"{p:.7g}" for p in row)])
        write_text(self / "predictions.csv", buffer.getvalue())

    def read_predictions(self) -> dict[str, Predictions]:
        """Read ``predictions.csv`` by split."""
        try:
            with (self / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                reader = csv.reader(file)
                header = next(reader)
                rows = list(reader)
        except (OSError, StopIteration, csv.Error) as error:
            raise RunError(f"{self / 'predictions.csv'} cannot be read: {error}.") from None
        classes = tuple(name.removeprefix("probability/") for name in header[4:])
        ids = {name: number for number, name in enumerate(classes)} | {"": -1}
        found: dict[str, Predictions] = {}
        for split in SPLITS:
            part = [row for row in rows if row[0] == split]
            if part:
                found[split] = Predictions(
                    split=split,
                    classes=classes,
                    paths=tuple(row[1] for row in part),
                    labels=np.array([ids[row[2]] for row in part], dtype=np.int64),
                    probabilities=np.array([row[4:] for row in part], dtype=np.float32),
                )
        return found


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Most severe first, otherwise in the order given."""
    rank = {"critical": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: rank[finding.severity])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
