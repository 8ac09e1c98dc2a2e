"""A trained model on disk and the labels it gives, built without training."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tintype.config import ModelConfig
from tintype.data.decode import Geometry, decode_image
from tintype.errors import ConfigError, DataError, MissingDependencyError, RunError, TintypeError
from tintype.evaluation.attention import attention_maps
from tintype.evaluation.overlay import side_by_side
from tintype.models.build import build_network
from tintype.records import ImageStatistics
from tintype.rundir import RunDir
from tintype.serving import exported, predictor
from tintype.serving.model import Model, load_model, save_model
from tintype.serving.predictor import Predictor, predict
from tintype.serving.run_classifier import RunClassifier

STATISTICS = ImageStatistics(10, 90.0, 40.0, 60.0, 100.0, 0.1, 0.0, 24.0, 24.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run directory with an untrained network."""
    torch.manual_seed(3)
    config = ModelConfig(layers="conv 8 3 relu\npool 2\ngap\n", flip_average=True)
    network = build_network(config, (3, 24, 24), 2, np.array([0.3, 0.4, 0.5]), np.array([0.2, 0.2, 0.3]))
    run_dir = RunDir(tmp_path / "run")
    geometry = Geometry(24, 3, "stretch")
    save_model(run_dir, Model(network.eval(), config, ("circle", "square"), geometry, STATISTICS, 2.0, 89.0))
    (run_dir / "config.toml").touch()
    run_dir.write_json("evaluation.json", {})
    return run_dir


def test_a_model_comes_back_whole(run: RunDir) -> None:
    first, second = load_model(run), load_model(run)
    assert first.classes == ("circle", "square")
    assert first.geometry == Geometry(24, 3, "stretch")
    assert first.statistics == STATISTICS
    assert (first.temperature, first.config.flip_average) == (2.0, True)
    images = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
    torch.testing.assert_close(first.network(images), second.network(images))
    np.testing.assert_allclose(first.network.mean.flatten().numpy(), [0.3, 0.4, 0.5], rtol=1e-6)


def test_labels_are_the_calibrated_mean_of_both_mirror_images(run: RunDir, shapes_folder: Path) -> None:
    path = shapes_folder / "circle" / "000.png"
    label = Predictor(run.path, "cpu").predict(path)
    model = load_model(run)
    pixels = decode_image(path, model.geometry, 89.0)
    both = torch.from_numpy(np.stack([pixels, pixels[:, ::-1].copy()])).permute(0, 3, 1, 2)
    with torch.no_grad():
        square = torch.sigmoid(model.network(both)).mean().item()
    odds = (square / (1 - square)) ** (1 / 2.0)
    assert label.probabilities["square"] == pytest.approx(odds / (1 + odds), abs=1e-5)
    assert label.probability == pytest.approx(max(label.probabilities.values()))


def test_many_labels_come_in_order_and_a_bad_image_is_marked(run: RunDir, shapes_folder: Path) -> None:
    bad = shapes_folder / "circle" / "000a.png"
    bad.write_bytes(b"")
    labels = list(Predictor(run.path, "cpu").predict_many([shapes_folder]))
    assert len(labels) == 81
    assert [Path(label.path).name for label in labels[:3]] == ["000.png", "000a.png", "001.png"]
    assert [bool(label.error) for label in labels[:3]] == [False, True, False]


def test_single_mistakes_are_one_line(run: RunDir, tmp_path: Path) -> None:
    predictor = Predictor(run.path, "cpu")
    for path in (tmp_path / "absent.png", run / "model.json"):
        with pytest.raises(DataError, match=path.name) as caught:
            predictor.predict(path)
        assert "\n" not in str(caught.value)


def test_an_image_may_be_a_file_its_content_or_its_pixels(run: RunDir, shapes_folder: Path) -> None:
    path = shapes_folder / "circle" / "000.png"
    predictor = Predictor(run.path, "cpu")
    from_file = predictor.predict(path)
    for image in (str(path), path.read_bytes(), np.asarray(Image.open(path))):
        assert predictor.predict(image).probabilities == from_file.probabilities
    with pytest.raises(DataError, match="image cannot be read: not a readable image"):
        predictor.predict(b"no image")


def test_progress_knows_the_total_as_soon_as_it_is_counted(
    run: RunDir, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    found = Predictor(run.path, "cpu").predict_many([shapes_folder], lambda *given: told.append(given))
    assert next(found).path
    deadline = time.monotonic() + 20
    while told[-1][2] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
        next(found)
    assert told[-1][2] == 80
    left = sum(1 for _ in found)
    assert told[-1] == ("labelling images", 80, 80)
    assert [done for _, done, _ in told] == list(range(1, 81))
    assert left <= 79


class FakeExport:
    """Stands for an exported model and notes which file it was opened from."""

    classes = ("circle", "square")
    geometry = Geometry(24, 3, "stretch")
    statistics = STATISTICS
    threshold = 0.0
    max_megapixels = 89.0

    def __init__(self, path: Path, threads: int | None = None) -> None:
        assert threads
        self.path = path / "model.onnx" if path.is_dir() else path
        self.facts = {
            "weights": hashlib.sha256(Path(self.path.parents[1], "model.safetensors").read_bytes()).hexdigest()
        }

    def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.array([[0.25, 0.75]], np.float32), (len(images_NHWC), 1))

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32] | None:
        return None


@pytest.fixture
def export(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's export, without maps, on a machine without a GPU."""
    monkeypatch.setattr(exported, "Exported", FakeExport)
    monkeypatch.setattr(predictor, "_GPU_DEVICES", ())
    (run / "export").mkdir()
    (run / "export" / "model.onnx").write_bytes(b"model")
    return run / "export"


def test_an_exported_run_is_used_by_its_export(run: RunDir, export: Path, shapes_folder: Path) -> None:
    whole = Predictor(run.path)
    assert whole.source == export
    assert isinstance(whole.classifier, FakeExport)
    (label,) = predict(run.path, shapes_folder / "circle" / "000.png")
    assert (label.label, label.probability) == ("square", 0.75)
    (export / "maps.onnx").touch()
    assert Predictor(run.path, needs_maps=True).source == export


def test_an_exported_run_is_used_itself_where_its_export_will_not_do(
    run: RunDir, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(Predictor(run.path, "cpu").classifier, RunClassifier)
    assert isinstance(Predictor(run.path, needs_maps=True).classifier, RunClassifier)
    monkeypatch.setattr(predictor, "_GPU_DEVICES", (str(run.path),))
    assert isinstance(Predictor(run.path).classifier, RunClassifier)

    def missing(path: Path, threads: int) -> None:
        raise MissingDependencyError("an export needs a library")

    monkeypatch.setattr(predictor, "_GPU_DEVICES", ())
    monkeypatch.setattr(exported, "Exported", missing)
    assert Predictor(run.path).source == run.path
    with pytest.raises(MissingDependencyError):
        Predictor(export)


def test_an_export_is_named_by_its_folder_or_its_file(run: RunDir, export: Path) -> None:
    for path in (export, export / "model.onnx"):
        found = Predictor(path)
        assert isinstance(found.classifier, FakeExport)
        assert (found.source, found.classifier.path) == (path, export / "model.onnx")
    with pytest.raises(ConfigError, match="Leave --device out"):
        Predictor(export, "cpu")


def test_a_model_is_told_by_its_weights_whoever_computes(run: RunDir, export: Path) -> None:
    by_run, by_export = Predictor(run.path, "cpu").model_hash(), Predictor(run.path).model_hash()
    assert by_run == by_export == Predictor(export).model_hash()
    assert len(by_run) == 12
    (export / "model-int8.onnx").write_bytes(b"quantised")
    assert Predictor(export / "model-int8.onnx").model_hash() != by_run


def test_hostile_and_foreign_weights_are_refused(run: RunDir) -> None:
    weights = run / "model.safetensors"
    for content in (b"\x80\x05cposix\nsystem\n.", b"\xff" * 64, b""):
        weights.write_bytes(content)
        with pytest.raises(TintypeError, match=r"model\.safetensors") as caught:
            load_model(run)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(TintypeError, match=r"model\.safetensors"):
        load_model(run)


def test_a_model_of_another_format_is_refused(run: RunDir) -> None:
    content = run.read_json("model.json")
    run.write_json("model.json", {**content, "format": 99})
    with pytest.raises(RunError, match="format 99"):
        load_model(run)


def with_threshold(run: RunDir, threshold: float) -> Predictor:
    run.write_json("model.json", {**run.read_json("model.json"), "threshold": threshold})
    return Predictor(run.path, "cpu")


def test_a_model_of_before_there_were_thresholds_answers_everything(run: RunDir, shapes_folder: Path) -> None:
    content = run.read_json("model.json")
    assert content.pop("threshold") == 0.0
    run.write_json("model.json", content)
    assert load_model(run).threshold == 0.0
    assert all(label.sure for label in Predictor(run.path, "cpu").predict_many([shapes_folder]))


def test_labels_below_the_threshold_are_given_but_not_sure(run: RunDir, shapes_folder: Path) -> None:
    everything = list(Predictor(run.path, "cpu").predict_many([shapes_folder]))
    threshold = float(np.median([label.probability for label in everything]))
    predictor = with_threshold(run, threshold)
    labels = list(predictor.predict_many([shapes_folder]))
    assert [label.label for label in labels] == [label.label for label in everything]
    assert [label.sure for label in labels] == [label.probability >= threshold for label in everything]
    assert 0 < sum(label.sure for label in labels) < len(labels)
    unsure = next(label for label in labels if not label.sure)
    assert not predictor.predict(unsure.path).sure
    assert predictor.predict(unsure.path, answer_all=True).sure
    assert all(label.sure for label in predictor.predict_many([shapes_folder], answer_all=True))


def test_a_picture_shows_where_the_model_looked(run: RunDir, shapes_folder: Path, tmp_path: Path) -> None:
    path = shapes_folder / "square" / "001.png"
    predictor = Predictor(run.path, "cpu")
    label = predictor.predict(path, explain=tmp_path / "new" / "folder")
    assert label.explanation == str(tmp_path / "new" / "folder" / "001.png")
    model = load_model(run)
    pixels = decode_image(path, model.geometry, 89.0)
    images = torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)
    maps = attention_maps(model.network, images, np.array([model.classes.index(label.label)]))
    assert isinstance(maps, np.ndarray)
    found = np.asarray(Image.open(label.explanation)).astype(int)
    assert np.abs(found - side_by_side(pixels, maps[0])).max() <= 1
    assert predictor.predict(path).explanation == ""


def test_pictures_have_names_of_their_own_and_replace_nothing(run: RunDir, shapes_folder: Path) -> None:
    """Pictures beside the images: an image is never lost, and images of one name have a picture each."""
    folder = shapes_folder / "circle"
    before = (folder / "000.png").read_bytes()
    bad = shapes_folder / "bad.png"
    bad.write_bytes(b"")
    paths = [folder / "000.png", bad, shapes_folder / "square" / "000.png"]
    labels = list(Predictor(run.path, "cpu").predict_many(paths, explain=folder))
    written = [Path(label.explanation).name for label in labels]
    assert written == ["000-2.png", "", "000-3.png"]
    assert (folder / "000.png").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_a_model_without_a_map_cannot_explain_itself(run: RunDir, shapes_folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(layers="flatten\ndense 4 relu\n")
    network = build_network(config, (3, 24, 24), 2)
    model = Model(network.eval(), config, ("circle", "square"), Geometry(24, 3, "stretch"), STATISTICS, 1.0, 89.0, 0.7)
    save_model(run, model)
    assert load_model(run).threshold == 0.7
    with pytest.raises(RunError, match="Leave --explain out"):
        list(Predictor(run.path, "cpu").predict_many([shapes_folder], explain=tmp_path / "pictures"))
    assert not (tmp_path / "pictures").exists()
