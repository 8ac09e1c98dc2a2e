"""A finished run as files that need no tintype: ONNX with everything inside, verified against the run.

Everything is written into a folder beside the final one, which takes its place only when all of it was verified.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tintype.errors import MissingDependencyError, RunError
from tintype.evaluation.compare import answers_of, compare_accuracy
from tintype.evaluation.metrics import evaluate
from tintype.ledger import Look, record_look
from tintype.records import Interval, Predictions, to_plain
from tintype.report.card import write_card
from tintype.report.inputs import main_split
from tintype.rundir import RunDir, write_json
from tintype.serving.exported import EXPORT_FORMAT, FACTS, QUANTIZED_MODEL, Exported
from tintype.serving.labels import Classifier
from tintype.serving.model import WEIGHTS, Model, load_model
from tintype.serving.parity import (
    Agreement,
    compare,
    require_same_answers,
    require_same_maps,
    require_same_resize,
)
from tintype.serving.predictor import EXPORT_FOLDER, EXPORTED_MAPS, EXPORTED_MODEL
from tintype.serving.samples import Samples, decoded, find_samples
from tintype.watch import Watch

if TYPE_CHECKING:
    from onnx import ModelProto

EXPORT_FILE = "export.json"
SCRIPT = "predict.py"
TORCH_PROGRAM = "model.pt2"

_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
_VERIFYING = "verifying the export"
_PIXELS_AT_ONCE = 64 * 224**2
_MOST_AT_ONCE = 256
_MAPS_VERIFIED = 16
_STEPS = 4


@dataclass(frozen=True)
class Quantization:
    """What the int8 model costs.

    Attributes:
        calibration_images: Training images that the ranges of its activations were taken from.
        same_class: Share of the images compared that get the same class from both.
        accuracy: Of the int8 model; None where no image has a label.
        full_accuracy: Of the model in fp32, on the same images.
        difference: How much better the int8 model is, in pairs.
        p: Of no difference, McNemar's exact test.
    """

    calibration_images: int
    same_class: float
    accuracy: Interval | None
    full_accuracy: Interval | None
    difference: Interval | None
    p: float | None


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it was verified; the content of ``export.json``, but for the path.

    Attributes:
        path: The export directory.
        run: Name of the run.
        made: When, and by which versions.
        files: Name to size in bytes.
        images: What it was verified on: ``2,000 test images``.
        same_image: The file and the run on images of the model's own size.
        own_resize: The same from the images' original size; None where no original is small enough.
        int8: What the int8 model costs, where it was asked for.
        maps: Why there is no ``maps.onnx``; empty where there is one.
        torch: The PyTorch program and the run on images of the model's own size, where it was asked for.
    """

    path: Path
    run: str
    made: dict[str, str]
    files: dict[str, int]
    images: str
    same_image: Agreement
    own_resize: Agreement | None
    int8: Quantization | None
    maps: str
    torch: Agreement | None

    def to_plain(self) -> dict[str, Any]:
        """As ``export.json`` holds it."""
        verified = {"images": self.images, "same_image": self.same_image, "own_resize": self.own_resize}
        content = {
            "format": EXPORT_FORMAT, "run": self.run, "made": self.made, "files": self.files, "verified": verified,
            "int8": self.int8, "maps": self.maps, "torch": self.torch,
        }  # fmt: skip
        plain: dict[str, Any] = to_plain(content)
        return plain


def export_run(
    run: RunDir,
    output: Path | None = None,
    *,
    int8: bool = False,
    torch_program: bool = False,
    watch: Watch = Watch(),
) -> ExportReport:
    """Write a run's model as ONNX and verify it.

    Args:
        run: The run.
        output: The export directory; ``export`` inside the run's by default. An earlier export is replaced.
        int8: Write a quantised model, too.
        torch_program: Write a ``torch.export`` program, too.
        watch: Progress and messages.

    Raises:
        RunError: There is no finished run, the network cannot be exported, or what was exported does not say what the
            run says; nothing is then written.
        MissingDependencyError: A library for exporting is not installed.
    """
    run.require_complete()
    _require_libraries()
    folder = output if output is not None else run / EXPORT_FOLDER
    _require_replaceable(folder)
    model = load_model(run)
    samples = find_samples(run, model, watch)
    if int8 and not len(samples.training):
        raise RunError("--int8 takes the ranges of activations from training images, and there are none. Leave it out.")
    with _appearing(folder) as staging:
        report = _Export(run, model, samples, staging, watch).write(int8=int8, torch_program=torch_program)
    if report.int8 is not None and report.int8.accuracy is not None and samples.fingerprint:
        started = str(run.read_json("environment.json").get("started", ""))
        name = str((folder / QUANTIZED_MODEL).absolute())
        record_look(samples.fingerprint, Look(name, "export", report.int8.accuracy.value, started), watch.on_message)
    return replace(report, path=folder)


class _Export:
    """The files of one export, written into an empty folder in the order in which they need each other."""

    def __init__(self, run: RunDir, model: Model, samples: Samples, folder: Path, watch: Watch) -> None:
        self._run = run
        self._model = model
        self._samples = samples
        self._folder = folder
        self._watch = watch
        self._facts = _facts(run, model)

    def write(self, *, int8: bool, torch_program: bool) -> ExportReport:
        """Write and verify everything."""
        from tintype.serving.graph import Answers, captured, network_model, plain_layout, planes
        from tintype.serving.graph import example_images as examples
        from tintype.serving.run_classifier import RunClassifier

        plain_layout(self._model.network)
        channels = self._model.geometry.channels
        self._tell("tracing the network", 0)
        program = captured(Answers(self._model).eval(), planes(examples(self._model.geometry, 3), channels))
        self._tell("writing ONNX", 1)
        network = network_model(program)
        self._save(EXPORTED_MODEL, network)
        run = RunClassifier(self._run.path, "cpu")
        from_run_NK = self._probabilities(run.probabilities)
        same_image, own_resize = self._verified(run, from_run_NK)
        quantization = self._quantize(network, from_run_NK) if int8 else None
        torch_agreement = self._write_program(from_run_NK) if torch_program else None
        self._tell("tracing the maps", 2)
        without_maps = self._write_maps(run)
        shutil.copyfile(Path(__file__).with_name("standalone.py"), self._folder / SCRIPT)
        self._tell("writing the model card", 3)
        report = ExportReport(
            self._folder, self._facts["name"], self._facts["made"], _sizes(self._folder),
            f"{len(self._samples):,} {self._samples.kind}", same_image, own_resize, quantization, without_maps,
            torch_agreement,
        )  # fmt: skip
        write_card(self._run, self._folder, report.to_plain())
        write_json(self._folder / EXPORT_FILE, report.to_plain())
        self._tell("exported", _STEPS)
        return report

    def _tell(self, what: str, done: int) -> None:
        self._watch.on_progress(what, done, _STEPS)

    def _save(self, name: str, network: ModelProto) -> None:
        """Write a network with its resize and what it needs to know, as one file."""
        import onnx

        from tintype.serving.graph import joined
        from tintype.serving.resize import resize_model

        whole = joined(resize_model(self._model.geometry), network)
        onnx.helper.set_model_props(whole, {FACTS: json.dumps({**self._facts, "int8": name == QUANTIZED_MODEL})})
        onnx.save(whole, self._folder / name)

    def _probabilities(self, answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Of all samples in the model's own size, shape (N, K)."""
        samples, size = self._samples, self._model.geometry.size
        at_once = max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // size**2))
        found = []
        for start in range(0, len(samples), at_once):
            found.append(answer(np.asarray(samples.images[samples.rows[start : start + at_once]])))
            self._watch.on_progress(_VERIFYING, min(start + at_once, len(samples)), len(samples))
        return np.concatenate(found)

    def _verified(self, run: Classifier, from_run_NK: NDArray[np.float32]) -> tuple[Agreement, Agreement | None]:
        exported, samples = Exported(self._folder), self._samples
        same_image = compare(from_run_NK, self._probabilities(exported.probabilities))
        require_same_answers(same_image, EXPORTED_MODEL)
        pairs = []
        for done, number in enumerate(samples.originals.tolist(), start=1):
            pixels_HWC = samples.original(number)
            resized_HWC = decoded(pixels_HWC, self._model.geometry)
            pairs.append((run.probabilities(resized_HWC[None]), exported.probabilities(pixels_HWC[None])))
            self._watch.on_progress("verifying the resize", done, len(samples.originals))
        if not pairs:
            return same_image, None
        own_resize = compare(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
        require_same_resize(own_resize, EXPORTED_MODEL)
        return same_image, own_resize

    def _quantize(self, network: ModelProto, from_run_NK: NDArray[np.float32]) -> Quantization:
        from tintype.serving.quantize import quantized

        samples = self._samples
        self._save(QUANTIZED_MODEL, quantized(network, np.asarray(samples.images[samples.training])))
        int8_NK = self._probabilities(Exported(self._folder, int8=True).probabilities)
        return _cost(samples, self._model.classes, from_run_NK, int8_NK)

    def _write_program(self, from_run_NK: NDArray[np.float32]) -> Agreement:
        import torch

        from tintype.serving.graph import AnswersInRgb, captured, example_images, quiet_exporter

        program = captured(AnswersInRgb(self._model).eval(), example_images(self._model.geometry, 3))
        path = self._folder / TORCH_PROGRAM
        with quiet_exporter():
            torch.export.save(program, path)
            module = torch.export.load(path).module()

        def answer(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            images_NHW3 = np.repeat(images_NHWC, 3 // images_NHWC.shape[3], axis=3)
            with torch.inference_mode():
                return np.asarray(module(torch.from_numpy(images_NHW3)).numpy(), np.float32)

        found = compare(from_run_NK, self._probabilities(answer))
        require_same_answers(found, TORCH_PROGRAM)
        return found

    def _write_maps(self, run: Classifier) -> str:
        """Write ``maps.onnx`` if there can be one; gives the reason if not."""
        import onnx

        from tintype.serving.maps import maps_model

        rows = self._samples.rows[:_MAPS_VERIFIED]
        images_NHWC = np.asarray(self._samples.images[rows])
        model = maps_model(self._model, images_NHWC[0])
        if isinstance(model, str):
            return model
        path = self._folder / EXPORTED_MAPS
        onnx.save(model, path)
        classes_N = np.arange(len(rows), dtype=np.int64) % len(self._model.classes)
        try:
            require_same_maps(run.maps(images_NHWC, classes_N), Exported(self._folder).maps(images_NHWC, classes_N))
        except RunError as error:
            path.unlink()
            return str(error)
        return ""


def _cost(
    samples: Samples, classes: tuple[str, ...], full_NK: NDArray[np.float32], int8_NK: NDArray[np.float32]
) -> Quantization:
    """The int8 model beside the full one on the same images."""
    full, small = (
        Predictions("test", classes, samples.paths, samples.labels, probabilities_NK)
        for probabilities_NK in (full_NK, int8_NK)
    )
    same_class = float((full.predicted == small.predicted).mean())
    if not (samples.labels >= 0).any():
        return Quantization(len(samples.training), same_class, None, None, None, None)
    (found,) = compare_accuracy("fp32", {"fp32": [answers_of(full)], "int8": [answers_of(small)]})
    return Quantization(
        len(samples.training), same_class, evaluate(small).accuracy, evaluate(full).accuracy, found.difference, found.p
    )


def _facts(run: RunDir, model: Model) -> dict[str, Any]:
    """What stands in the metadata of each model file."""
    evaluations = run.read_evaluation()
    split = main_split(evaluations)
    metrics = evaluations[split].metrics if split is not None else {}
    accuracy = metrics.get("accuracy")
    return {
        "format": EXPORT_FORMAT,
        "name": run.name,
        "classes": list(model.classes),
        "geometry": asdict(model.geometry),
        "temperature": model.temperature,
        "threshold": model.threshold,
        "statistics": asdict(model.statistics),
        "max_megapixels": model.max_megapixels,
        "accuracy": None if accuracy is None else {"split": split, **asdict(accuracy)},
        "weights": hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest(),
        "made": {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: version(name) for name in ("tintype", "torch", "pillow", *_LIBRARIES)},
        },
    }


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _require_libraries() -> None:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"export needs {', '.join(missing)}: pip install 'tintype[export]'.")


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / EXPORT_FILE).is_file())):
        raise RunError(f"{folder} exists already and is no export. Take another name with -o.")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of ``folder`` on leaving, and is removed on an error."""
    staging, former = (folder.with_name(f".{folder.name}.{os.getpid()}.{word}") for word in ("new", "old"))
    staging.mkdir(parents=True)
    try:
        yield staging
        for path in staging.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(former)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if former.exists():
            former.rename(folder)
        raise
    shutil.rmtree(former, ignore_errors=True)
