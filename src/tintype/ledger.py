"""Which finished models were judged on which test images: a test set that many were chosen by is no test any more.

The ledger is a file of JSON lines in the user's data folder. A test set is known by its content, so that it is the same
one after it was copied or renamed. A look is a finished model on it: reading its figures again is no new look.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import filelock
import numpy as np
import platformdirs
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from tintype.records import Finding

HANDFUL = 5
"""So many looks at a test set are taken as they are; more are a finding."""

LEDGER_VERSION = 1
_LOCK_SECONDS = 10.0
_Z_SQUARED = float(ndtri(0.975)) ** 2

OnMessage = Callable[[str], None]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Look:
    """A finished model that was judged on a test set.

    Attributes:
        run: The run directory of the model, absolute.
        what: The verb: ``train``, ``evaluate``, ``compare`` or ``study``.
        accuracy: On the test images; None where it is not known.
        started: When the run began, from its ``environment.json``: tells a run from a later one in the same directory.
        time: When it was looked at, UTC.
    """

    run: str
    what: str
    accuracy: float | None = None
    started: str = ""
    time: str = field(default_factory=_now)

    @property
    def model(self) -> tuple[str, str]:
        """What makes two looks the same one."""
        return self.run, self.started


def ledger_path() -> Path:
    """The ledger: ``TINTYPE_LEDGER``, or ``ledger.jsonl`` in the user's data folder.

    It is not in the cache folder, since a cache may be deleted at any time.
    """
    given = os.environ.get("TINTYPE_LEDGER")
    return Path(given) if given else Path(platformdirs.user_data_dir("tintype", appauthor=False)) / "ledger.jsonl"


def fingerprint_images(content_hash_N: NDArray[np.uint64], labels: Sequence[str]) -> str:
    """Hash of the images of a test set and their labels, in whatever order and under whatever names they come.

    Args:
        content_hash_N: Hash of each image's content, as :class:`tintype.data.cache.ImageCache` has it.
        labels: Class name of each.
    """
    digest = hashlib.blake2b(digest_size=16)
    for content, label in sorted(zip(content_hash_N.tolist(), labels, strict=True)):
        name = label.encode("utf-8", "surrogatepass")
        digest.update(content.to_bytes(8, "little") + len(name).to_bytes(8, "little") + name)
    return digest.hexdigest()


def record_look(fingerprint: str, look: Look, on_message: OnMessage = _silent) -> int:
    """Note that a finished model was judged on a test set, unless that is noted already.

    A ledger that cannot be written costs a message and nothing else.

    Args:
        fingerprint: Of the test set, by :func:`fingerprint_images`.
        look: The model.
        on_message: Told of a ledger that cannot be written, and of damaged lines.

    Returns:
        How many models have been judged on this test set so far, this one included.
    """
    path = ledger_path()
    looks: list[Look] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_SECONDS):
            looks = _read(path, fingerprint, on_message)
            if look.model not in {known.model for known in looks}:
                looks.append(look)
                _append(path, {"version": LEDGER_VERSION, "test_set": fingerprint, **asdict(look)})
    except OSError as error:  # a time-out is one too
        on_message(f"this look at the test set is not recorded: {path} cannot be written ({_reason(error)}).")
    return len({item.model for item in [*looks, look]})


def looks_at(fingerprint: str, on_message: OnMessage = _silent) -> tuple[Look, ...]:
    """The models that were judged on a test set, in the order of their first look.

    Args:
        fingerprint: Of the test set.
        on_message: Told of a ledger that cannot be read, and of damaged lines.
    """
    try:
        return tuple(_read(ledger_path(), fingerprint, on_message))
    except OSError as error:
        on_message(f"looks at the test set are not known: {ledger_path()} cannot be read ({_reason(error)}).")
        return ()


def ledger_content(looks: int, n: int, accuracy: float, known: Sequence[Look]) -> dict[str, Any]:
    """What a run keeps of the ledger, ``ledger.json``, so that its report needs nothing else.

    Args:
        looks: How many models had been judged on the test images when this one had been.
        n: Test images.
        accuracy: Of this model.
        known: The looks, as :func:`looks_at` gives them; of their directories the names are kept alone.
    """
    rows = [
        {"time": look.time, "run": PurePath(look.run).name, "what": look.what, "accuracy": look.accuracy}
        for look in known
    ]
    return {"looks": looks, "n": n, "accuracy": accuracy, "known": rows}


def ledger_finding(looks: int, n: int, accuracy: float) -> Finding | None:
    """What it means that a test set was looked at so often; None for a handful of looks.

    Args:
        looks: How many models were judged on it.
        n: Its images.
        accuracy: The best one's, 0 to 1.
    """
    if looks <= HANDFUL:
        return None
    bias = selection_bias(looks, n, accuracy)
    return Finding(
        "test-set-reused",
        "warning",
        f"{looks:,} models have been judged on these {n:,} test images: the best of them looks better than it is, by "
        f"up to {_points(bias)}",
        (
            f"on {n:,} images the accuracy of one model varies by chance with a deviation of "
            f"{_points(accuracy_deviation(n, accuracy))}",
            f"the largest of {looks:,} independent draws lies {expected_maximum(looks):.2f} deviations above their "
            "mean; models that make the same mistakes draw alike, so that the bias is smaller",
        ),
        "Choose between models by the validation images. For a figure to rely on, judge the chosen one once on new "
        "test images.",
    )


def selection_bias(looks: int, n: int, accuracy: float) -> float:
    """By how much the best of several equally good models looks too good, as a share: an upper bound.

    The expected maximum of independent normal errors (G. C. Cawley and N. L. C. Talbot, "On over-fitting in model
    selection and subsequent selection bias in performance evaluation", JMLR 11, 2010, on why it matters). Models that
    differ in truth, or that fail on the same images, leave less to choose by chance.

    Args:
        looks: How many models were judged.
        n: Test images.
        accuracy: About what they reach, 0 to 1.
    """
    return expected_maximum(looks) * accuracy_deviation(n, accuracy)


def accuracy_deviation(n: int, accuracy: float) -> float:
    """Standard deviation of an accuracy on ``n`` images, as a share.

    The accuracy is drawn towards a half as in Wilson's interval, so that all right out of 18 does not vary by 0.
    """
    share = (n * accuracy + _Z_SQUARED / 2) / (n + _Z_SQUARED)
    return float(np.sqrt(share * (1 - share) / n))


def expected_maximum(count: int) -> float:
    """Expected largest of ``count`` independent standard normal draws: 0.56 for 2, 1.54 for 10, 2.51 for 100.

    The integral of ``1 - F(x) ** count`` above 0 less that of ``F(x) ** count`` below, by the trapezoidal rule.
    """
    above = np.linspace(0.0, 40.0, 40_001)
    below = -above[above <= 10]
    larger = -np.expm1(count * log_ndtr(above))
    return float(np.trapezoid(larger, above) - np.trapezoid(np.exp(count * log_ndtr(below)), -below))


def _append(path: Path, entry: dict[str, object]) -> None:
    """Add a line and see it on the disk; a line that a kill left unfinished is ended first."""
    line = json.dumps(entry, ensure_ascii=True, allow_nan=False).encode() + b"\n"
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, fingerprint: str, on_message: OnMessage) -> list[Look]:
    """The looks at a test set, each model once; none where there is no ledger."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found: dict[tuple[str, str], Look] = {}
    damaged = 0
    for line in filter(None, lines):
        try:
            entry = json.loads(line)
            if entry["version"] == LEDGER_VERSION and entry["test_set"] == fingerprint:
                look = _look_of(entry)
                found.setdefault(look.model, look)
        except (ValueError, TypeError, KeyError):
            damaged += 1
    if damaged:
        what = "1 damaged line" if damaged == 1 else f"{damaged:,} damaged lines"
        on_message(f"{what} of {path} left out; looks at the test set may be missing.")
    return list(found.values())


def _look_of(entry: dict[str, object]) -> Look:
    """A look from its line; what is not as it should be raises."""
    run, what, started, time = (str(entry[name]) for name in ("run", "what", "started", "time"))
    accuracy = entry["accuracy"]
    if accuracy is not None and not isinstance(accuracy, int | float):
        raise TypeError(f"accuracy must be a number. Got {accuracy!r} instead.")
    return Look(run, what, accuracy, started, time)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _points(share: float) -> str:
    """A difference of shares in percentage points, to two digits."""
    return f"{100 * share:.2g} points"
