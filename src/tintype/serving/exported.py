"""An exported model on onnxruntime, ready to answer. Nothing here imports torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.data.pixels import Geometry
from tintype.errors import MissingDependencyError, RunError
from tintype.ranks.torchrun import usable_cores
from tintype.records import ImageStatistics
from tintype.serving.predictor import EXPORTED_MAPS, EXPORTED_MODEL

EXPORT_FORMAT = 1
"""Raised whenever an export of an earlier tintype can no longer be read."""

FACTS = "tintype"
"""The key in the model file's ``metadata_props`` under which everything but the network stands, as JSON."""

QUANTIZED_MODEL = "model-int8.onnx"
CARD = "card.html"

_TENSORRT, _CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
_OPENVINO, _CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"
PREFERRED = (_TENSORRT, _CUDA, _OPENVINO, _CPU)
"""onnxruntime's providers, the fastest first; what one cannot do the next one does."""


class Exported:
    """An exported model.

    Args:
        path: The export directory, or the .onnx file in it.
        threads: Threads of the network on a CPU; None for all cores that this process may use.
        int8: Use the quantised network of the directory.
        calls: How many threads will call it at a time. They compute, too, so that it needs fewer of its own; and where
            there are several, those wait asleep and not in a loop, since the cores have other work.

    Attributes:
        path: The .onnx file.
        classes: Class names, in the order of the probabilities.
        geometry: The model's own size.
        statistics: What its training images look like.
        threshold: An answer less probable than this is not sure; 0 where every answer is given.
        max_megapixels: Larger images are refused.
        name: Of the run that it was exported from.
        card: The model card beside it, None where there is none.
        facts: All of the file's metadata, as ``docs/exporting.md`` describes it.

    Raises:
        RunError: There is no such export, or this version cannot read it.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int | None = None, int8: bool = False, *, calls: int = 1) -> None:
        self.path = _model_file(path, int8)
        self._open = partial(_open_session, threads=threads or usable_cores(), calls=calls)
        self._session = self._open(self.path)
        self.facts = _read_facts(self.path, self._session.get_modelmeta().custom_metadata_map)
        self.classes = tuple(str(name) for name in self.facts["classes"])
        self.geometry = Geometry(**self.facts["geometry"])
        self.statistics = ImageStatistics(**self.facts["statistics"])
        self.threshold = float(self.facts["threshold"])
        self.max_megapixels = float(self.facts["max_megapixels"])
        self.name = str(self.facts["name"])
        card = self.path.with_name(CARD)
        self.card = card if card.is_file() else None
        self._maps: Any = None
        self._opening_maps = threading.Lock()

    @property
    def providers(self) -> tuple[str, ...]:
        """What onnxruntime computes with, the preferred first."""
        return tuple(self._session.get_providers())

    @property
    def is_on_cpu(self) -> bool:
        """Whether nothing faster than the CPU was found."""
        return self.providers[0] == _CPU

    def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities.

        Args:
            images_NHWC: At least one image; of the model's own size with its channels, or of any one size in RGB.

        Returns:
            Shape (N, K), rows sum to 1.
        """
        (found,) = self._session.run(None, {"images": _in_rgb(images_NHWC)})
        return np.asarray(found, dtype=np.float32)

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Where the network looks for a class of each image.

        Args:
            images_NHWC: At least one image of the model's own size.
            classes_N: The class that is asked about for each.

        Returns:
            Shape (N, h, w), 0 to 1; None where the export holds no maps (its ``export.json`` says why).
        """
        file = self.path.with_name(EXPORTED_MAPS)
        with self._opening_maps:
            if self._maps is None and file.is_file():
                self._maps = self._open(file)
        if self._maps is None:
            return None
        (found,) = self._maps.run(None, {"images": _in_rgb(images_NHWC), "classes": classes_N.astype(np.int64)})
        return np.asarray(found, dtype=np.float32)


def preferred_providers(available: Sequence[str]) -> list[str]:
    """Those of :data:`PREFERRED` that this onnxruntime has, in that order."""
    return [name for name in PREFERRED if name in available]


def onnxruntime() -> ModuleType:
    """The library.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return import_module("onnxruntime")
    except ImportError:
        raise MissingDependencyError("an export needs a library: pip install 'tintype[export]'.") from None


def _model_file(path: Path, int8: bool) -> Path:
    file = path / (QUANTIZED_MODEL if int8 else EXPORTED_MODEL) if path.is_dir() else path
    if not path.is_dir() and int8:
        raise RunError(f"{path} is a file: name the export directory to have its int8 model.")
    if not file.is_file():
        option = " --int8" if int8 else ""
        raise RunError(f"there is no exported model {file}. `tintype export RUN{option}` makes one.")
    return file


def _open_session(file: Path, threads: int, calls: int) -> Any:
    library = onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = max(1, threads - calls + 1)  # the calling thread counts as one of them
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if calls == 1 else "0")
    options.log_severity_level = 3  # errors: which operator runs where is nobody's business here
    providers = [_with_options(name) for name in preferred_providers(library.get_available_providers())]
    try:
        return library.InferenceSession(file, options, providers=providers)
    except Exception as error:  # onnxruntime's own errors have no common base
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"{file} cannot be read as an ONNX model: {reason}") from None


def _with_options(provider: str) -> str | tuple[str, dict[str, str]]:
    if provider == _CUDA:
        # TensorFloat-32 keeps three decimal digits, too few for the sums of a resize and for probabilities to 1e-4.
        return provider, {"use_tf32": "0"}
    if provider == _TENSORRT:
        from tintype.rundir import cache_folder

        # An engine takes a minute to build.
        return provider, {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(cache_folder() / "tensorrt")}
    return provider


def _read_facts(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if FACTS not in metadata:
        raise RunError(f"{file} was not made by `tintype export`: it does not name its classes.")
    facts: dict[str, Any] = json.loads(metadata[FACTS])
    if facts.get("format") != EXPORT_FORMAT:
        raise RunError(f"{file} has format {facts.get('format')}; this tintype reads {EXPORT_FORMAT}. Export it anew.")
    return facts


def _in_rgb(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(images_NHWC, 3, axis=3) if images_NHWC.shape[3] == 1 else np.ascontiguousarray(images_NHWC)
