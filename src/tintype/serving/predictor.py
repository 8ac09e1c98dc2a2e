"""A trained model, ready to label images, whether it is a run (with torch) or what was exported of one (without).

Nothing heavy is imported before it is known which of the two it is.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tintype.data.paths import find_images
from tintype.errors import ConfigError, DataError, MissingDependencyError
from tintype.ranks.torchrun import usable_cores
from tintype.records import OnProgress, silent
from tintype.serving.labels import Classifier, Label, Labeller, Source
from tintype.watch import Watch

if TYPE_CHECKING:
    from tintype.serving.exported import Exported

EXPORT_FOLDER = "export"
"""Where in its directory `tintype export` leaves what it makes of a run."""
EXPORTED_MODEL = "model.onnx"
EXPORTED_MAPS = "maps.onnx"

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux, WSL, ROCm


class Predictor:
    """A trained model, ready to label images.

    A run that was exported is used by its export, which starts in a sixth of the time and gives the same answers,
    unless a device is named or the machine has a GPU.

    Args:
        path: A run directory, an export directory, or an .onnx file of one.
        device: ``auto``, or for a run ``cpu``, ``cuda`` or ``cuda:N``.
        needs_maps: Whether answers will be explained, which some exports cannot do.

    Attributes:
        classifier: What labels the images.
        source: The run directory, export directory or file that it is.

    Raises:
        RunError: There is no finished model.
        ConfigError: There is no such device.
        MissingDependencyError: It is an export, and onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, device: str = "auto", *, needs_maps: bool = False) -> None:
        self.source = Path(path)
        require_model(self.source)
        self.classifier: Classifier
        self._weights = self.source / "model.safetensors"
        self._hash = ""
        if is_export(self.source):
            if device != "auto":
                raise ConfigError(
                    f"an export computes where onnxruntime can, not on {device!r}. Leave --device out, or name the run "
                    "directory."
                )
            found = _exported(self.source)
            self.classifier, self._weights = found, found.path
            if found.path.name == EXPORTED_MODEL:  # any other file may have been quantised
                self._hash = str(found.facts["weights"])
            return
        export = self.source / EXPORT_FOLDER
        serves = is_export(export) and ((export / EXPORTED_MAPS).is_file() or not needs_maps)
        if serves and device == "auto" and not any(Path(name).exists() for name in _GPU_DEVICES):
            with suppress(MissingDependencyError):
                self.classifier = _exported(export)
                self.source = export
                return
        from tintype.serving.run_classifier import RunClassifier  # torch takes seconds to import

        self.classifier = RunClassifier(self.source, device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.classifier.classes

    @property
    def threshold(self) -> float:
        """Answers that are less probable are not sure; 0: all are."""
        return self.classifier.threshold

    def predict(
        self,
        image: str | Path | bytes | NDArray[np.uint8],
        *,
        explain: str | Path | None = None,
        answer_all: bool = False,
    ) -> Label:
        """Label one image.

        Args:
            image: A file, a file's content, or pixels of shape (H, W) or (H, W, C).
            explain: A folder for the picture of where the model looked.
            answer_all: Call the answer sure.

        Raises:
            DataError: The file is missing or is no image that can be read.
            RunError: The model has no map to explain itself with.
        """
        name, source = (str(image), Path(image)) if isinstance(image, str | Path) else ("image", image)
        label = next(self.label([(name, source)], explain=explain, answer_all=answer_all))
        if label.error:
            raise DataError(f"{name} cannot be read: {label.error}.")
        return label

    def predict_many(
        self,
        paths: Sequence[str | Path],
        on_progress: OnProgress = silent,
        *,
        explain: str | Path | None = None,
        answer_all: bool = False,
    ) -> Iterator[Label]:
        """Label files, folders and globs, one by one and in order; an unreadable image gives an ``error``.

        Args:
            paths: The images.
            on_progress: Called after each image; how many there are is 0 until they have been counted.
            explain: A folder for pictures of where the model looked, one an image.
            answer_all: Call every answer sure.

        Raises:
            DataError: Nothing matches the paths.
            RunError: The model has no map to explain itself with.
        """
        yield from self.label_files(
            find_images(paths), on_progress, again=lambda: find_images(paths), explain=explain, answer_all=answer_all
        )

    def label_files(
        self,
        names: Iterable[str],
        on_progress: OnProgress = silent,
        *,
        again: Callable[[], Iterable[str]] = tuple,
        explain: str | Path | None = None,
        answer_all: bool = False,
    ) -> Iterator[Label]:
        """Label files by name, one by one and in order.

        Args:
            names: The files; taken as they are needed.
            on_progress: Called after each image; how many there are is 0 until they have been counted.
            again: Gives the names once more, to count them while the first are at work.
            explain: A folder for pictures of where the model looked, one an image.
            answer_all: Call every answer sure.

        Raises:
            RunError: The model has no map to explain itself with.
        """
        items = ((name, Path(name)) for name in names)
        with _counting(again) as total:
            for done, label in enumerate(self.label(items, explain=explain, answer_all=answer_all), start=1):
                on_progress("labelling images", done, total())
                yield label

    def label(
        self, items: Iterable[tuple[str, Source]], *, explain: str | Path | None = None, answer_all: bool = False
    ) -> Iterator[Label]:
        """Label a stream of images, each with the name that its label will have.

        Args:
            items: Name and file, file's content or pixels of each; taken as they are needed.
            explain: A folder for pictures of where the model looked, one an image.
            answer_all: Call every answer sure.

        Raises:
            RunError: The model has no map to explain itself with.
        """
        explainer = None
        if explain is not None:
            from tintype.serving.explain import Explainer  # OpenCV

            explainer = Explainer(Path(explain))
        labeller = Labeller(self.classifier, usable_cores(), answer_all=answer_all, explainer=explainer)
        yield from labeller.labels(items)

    def model_hash(self) -> str:
        """Twelve digits that tell this model from others: of the SHA-256 of the run's weights.

        A run and its export have the same; an .onnx file of another name has those of the file.
        """
        if not self._hash:
            with self._weights.open("rb") as stream:
                self._hash = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._hash[:12]


def load(run: str | Path, *, device: str = "auto") -> Predictor:
    """Load a finished run, or an export, for labelling images: ``load("runs/photos").predict("cat.jpg")``."""
    return Predictor(run, device)


def predict(
    run: str | Path,
    paths: str | Path | Iterable[str | Path],
    *,
    explain: str | Path | None = None,
    answer_all: bool = False,
    device: str = "auto",
    watch: Watch = Watch(),
) -> list[Label]:
    """Label files, folders and globs with a finished run or an export.

    Args:
        run: The run directory, an export directory, or an .onnx file of one.
        paths: The images.
        explain: A folder for pictures of where the model looked, one an image.
        answer_all: Call every answer sure, also those below the model's threshold.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        watch: Progress.

    Raises:
        TintypeError: With one line that says what is wrong and what to do.
    """
    chosen = [paths] if isinstance(paths, str | Path) else list(paths)
    predictor = Predictor(run, device, needs_maps=explain is not None)
    return list(predictor.predict_many(chosen, watch.on_progress, explain=explain, answer_all=answer_all))


@contextmanager
def _counting(names: Callable[[], Iterable[str]]) -> Iterator[Callable[[], int]]:
    """Count names in a thread; yields a function that says how many there are, 0 until that is known."""
    total = 0
    is_over = threading.Event()

    def count() -> None:
        nonlocal total
        number = 0
        with suppress(DataError):  # whoever uses the names is told
            for _ in names():
                if is_over.is_set():
                    return
                number += 1
            total = number

    threading.Thread(target=count, daemon=True).start()
    try:
        yield lambda: total
    finally:
        is_over.set()


def require_model(path: Path) -> None:
    """Refuse at once, before anything heavy is imported, what is no finished run and no export.

    Raises:
        RunError: It is neither.
    """
    if not is_export(path):
        from tintype.rundir import RunDir

        RunDir(path).require_complete()


def is_export(path: Path) -> bool:
    """Whether a path is an export or a file of one, by its name or what lies in it."""
    return path.suffix == ".onnx" or (path / EXPORTED_MODEL).is_file()


def _exported(path: Path) -> Exported:
    from tintype.serving.exported import Exported  # it looks for onnxruntime

    return Exported(path, threads=usable_cores())
