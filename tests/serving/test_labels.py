"""Streams of images and what a classifier says of them, with one whose answers can be told by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tintype.data.decode import Geometry
from tintype.errors import RunError
from tintype.records import ImageStatistics
from tintype.serving import labels as module
from tintype.serving.explain import Explainer
from tintype.serving.labels import Labeller, Source

COLOURED = ImageStatistics(10, 120.0, 40.0, 120.0, 120.0, 0.5, 1.0, 8.0, 8.0)
DARK_ON_LIGHT = ImageStatistics(10, 220.0, 40.0, 250.0, 120.0, 1.0, 0.0, 8.0, 8.0)


class Brightness:
    """Says ``bright`` with the mean grey level as the probability, and looks where it is bright."""

    classes = ("dark", "bright")
    threshold = 0.75
    max_megapixels = 1.0

    def __init__(self, statistics: ImageStatistics = COLOURED, has_maps: bool = True) -> None:
        self.geometry = Geometry(8, 1 if statistics.color == 0 else 3, "stretch")
        self.statistics = statistics
        self.batches: list[int] = []
        self._has_maps = has_maps

    def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images_NHWC.shape[1:] == self.geometry.shape
        self.batches.append(len(images_NHWC))
        bright_N = images_NHWC.mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - bright_N, bright_N], axis=1).astype(np.float32)

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return np.asarray(images_NHWC[:, ::4, ::4, 0] / 255, np.float32) if self._has_maps else None


def grey(level: int) -> NDArray[np.uint8]:
    return np.full((8, 8, 3), level, np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_labels_come_in_order_from_any_source_and_bad_ones_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(grey(255)))
    items: list[tuple[str, Source]] = [
        ("file", tmp_path / "a.png"), ("pixels", grey(51)), ("absent", tmp_path / "b.png"),
        ("content", png(grey(102))), ("cut", png(grey(102))[:40]), ("https://example.org/a.jpg", Path("https:/a.jpg")),
        ("large", np.zeros((2000, 1000, 3), np.uint8)),
    ]  # fmt: skip
    found = list(Labeller(Brightness(), 2).labels(items))
    assert [label.path for label in found] == [name for name, _ in items]
    assert [label.label for label in found] == ["bright", "dark", "", "dark", "", "", ""]
    assert [label.sure for label in found] == [True, True, False, False, False, False, False]
    assert found[1].probability == pytest.approx(0.8)
    assert found[1].probabilities == pytest.approx({"dark": 0.8, "bright": 0.2})
    assert found[2].error == "the file is missing"
    assert found[4].error
    assert found[5].error == "a web address, and tintype fetches nothing"
    assert "2.0 megapixels, more than max_megapixels = 1" in found[6].error
    everything = Labeller(Brightness(), 2, answer_all=True).labels(items[:4])
    assert [label.sure for label in everything] == [True, True, False, True]


def test_no_more_than_two_batches_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 5)
    taken, before = 0, set(threading.enumerate())

    def stream() -> Iterator[tuple[str, Source]]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield str(number), grey(number % 256)

    classifier = Brightness()
    labels = Labeller(classifier, 2).labels(stream())
    assert taken == 0
    for expected in range(40):
        assert next(labels).path == str(expected)
        assert taken <= expected + 15
    assert classifier.batches == [5] * 8
    del labels
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), "whoever has seen enough leaves no thread behind"


def test_the_next_batch_is_decoded_while_the_network_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's second call waits for the third batch to be decoded, which a labeller by turns would never do."""
    monkeypatch.setattr(module, "MOST_AT_ONCE", 4)
    third = threading.Event()
    real = Labeller._decode

    def decode(self: Labeller, name: str, source: Source) -> NDArray[np.uint8] | str:
        if name == "11":
            third.set()
        return real(self, name, source)

    class Waiting(Brightness):
        def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            if len(self.batches) == 1:
                assert third.wait(20), "nothing is decoded while the network works"
            return super().probabilities(images_NHWC)

    monkeypatch.setattr(Labeller, "_decode", decode)
    items: list[tuple[str, Source]] = [(str(number), grey(number)) for number in range(12)]
    assert len(list(Labeller(Waiting(), 1).labels(items))) == 12


def test_large_images_go_through_the_network_in_smaller_numbers() -> None:
    classifier = Brightness()
    classifier.geometry = Geometry(1792, 3, "stretch")
    items: list[tuple[str, Source]] = [(str(number), grey(number)) for number in range(3)]
    assert len(list(Labeller(classifier, 2).labels(items))) == 3
    assert classifier.batches == [1, 1, 1], "as many pixels as 64 images of 224"


def test_negatives_of_what_was_trained_are_inverted() -> None:
    """A light stroke on black, where training had dark ones on white, is seen as the latter and kept as it came."""
    stroke = np.zeros((8, 8), np.uint8)
    stroke[2:6, 3:5] = 255
    items: list[tuple[str, Source]] = [("negative", stroke), ("as trained", 255 - stroke)]
    negative, plain = Labeller(Brightness(DARK_ON_LIGHT), 1).labels(items)
    assert negative.probabilities == plain.probabilities
    assert plain.probability == pytest.approx(1 - 8 / 64)


def test_pictures_are_named_after_images_and_standard_input(tmp_path: Path) -> None:
    explainer = Explainer(tmp_path / "why")
    items: list[tuple[str, Source]] = [("a/x.jpg", grey(200)), ("-", grey(10)), ("b/x.png", grey(99)), ("bad", b"bad")]
    found = list(Labeller(Brightness(), 1, explainer=explainer).labels(items))
    assert [Path(label.explanation).name for label in found] == ["x.png", "stdin.png", "x-2.png", ""]
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["stdin.png", "x-2.png", "x.png"]


def test_a_classifier_without_maps_cannot_explain(tmp_path: Path) -> None:
    labeller = Labeller(Brightness(has_maps=False), 1, explainer=Explainer(tmp_path / "why"))
    with pytest.raises(RunError, match="Leave --explain out"):
        list(labeller.labels([("a", grey(3))]))
    assert not (tmp_path / "why").exists()
