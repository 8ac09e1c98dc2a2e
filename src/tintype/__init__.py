"""tintype: from a folder of labelled images to a classifier you can trust, and the report that shows why.

The verbs of the command line are the functions of this module. They are imported when they are first used, so
that ``import tintype`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tintype.api import check, demo, evaluate, export, report, resume, summary, train, tune
    from tintype.errors import TintypeError
    from tintype.records import Evaluation, Finding, Interval
    from tintype.serving.predictor import load, predict
    from tintype.serving.server.start import serve

__version__ = "0.1.0"
__all__ = [
    "Evaluation", "Finding", "Interval", "TintypeError", "check", "compare", "demo", "diagnose", "embed", "evaluate",
    "export", "load", "predict", "report", "resume", "resume_tune", "serve", "study", "summary", "train", "tune",
]  # fmt: skip

_HOMES = {
    "TintypeError": "errors", "Evaluation": "records", "Finding": "records", "Interval": "records",
    "load": "serving.predictor", "predict": "serving.predictor", "serve": "serving.server.start",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tintype' has no attribute {name!r}")
    return getattr(import_module(f"tintype.{_HOMES.get(name, 'api')}"), name)
