"""timm without torch's compiler, which importing it drags along for nothing."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_UTILS = "torch._dynamo.utils"
_lock = threading.Lock()


def import_timm() -> None:
    """Import timm in a third of the time; afterwards ``import timm`` takes none.

    torchvision (0.29) asks torch's compiler for one function while it is imported, and timm (1.0.31) has it look at
    five methods of a network that few use. Both are only needed once something is compiled, but for them a thousand
    modules are loaded: 1.66 of 2.1 s of processor time became 0.45 (two shared cores, 2026-11-22). So both are put
    off until they are called; whatever else is asked for meanwhile is torch's own.
    """
    with _lock:
        if "timm" in sys.modules:
            return
        with _compiler_put_off():
            importlib.import_module("timm")


@contextmanager
def _compiler_put_off() -> Iterator[None]:
    compiler: Any = importlib.import_module("torch.compiler")
    if _UTILS in sys.modules:
        yield
        return
    stand_in, disable = _StandIn(_UTILS), compiler.disable
    sys.modules[_UTILS] = stand_in
    compiler.disable = _disable_when_called
    try:
        yield
    finally:
        compiler.disable = disable
        if sys.modules.get(_UTILS) is stand_in:
            del sys.modules[_UTILS]


class _StandIn(ModuleType):
    """In the place of a module of torch's compiler, which is imported as soon as more than a name of it is wanted."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """As torch's own."""
        return bool(importlib.import_module(_UTILS).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_UTILS) is self:
            del sys.modules[_UTILS]
        return getattr(importlib.import_module(_UTILS), name)


def _disable_when_called(fn: Callable[..., Any], recursive: bool = True) -> Callable[..., Any]:
    """``torch.compiler.disable``, done when the function is first called."""

    @functools.cache
    def disabled() -> Any:
        return importlib.import_module("torch.compiler").disable(fn, recursive)

    @functools.wraps(fn)
    def call(*given: Any, **named: Any) -> Any:
        return disabled()(*given, **named)

    return call
