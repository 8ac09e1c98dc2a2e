"""Reading an exported model: what is refused, and what computes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tintype.data.pixels import Geometry
from tintype.errors import MissingDependencyError, RunError
from tintype.records import ImageStatistics
from tintype.serving import exported as module
from tintype.serving.exported import Exported, preferred_providers

FACTS: dict[str, Any] = {
    "format": 1, "name": "tiny", "classes": ["dark", "light"], "geometry": asdict(Geometry(4, 1, "crop")),
    "statistics": asdict(ImageStatistics(10, 90.0, 40.0, 60.0, 100.0, 0.1, 0.0, 24.0, 24.0)),
    "threshold": 0.75, "max_megapixels": 12.0,
}  # fmt: skip

WriteModel = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """An export directory whose model says how light an image is."""

    def write(facts: dict[str, Any] | None = FACTS, name: str = "model.onnx") -> Path:
        nodes = [
            helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["levels", "axes"], ["mean"], keepdims=0),
            helper.make_node("Div", ["mean", "most"], ["light"]),
            helper.make_node("Sub", ["one", "light"], ["dark"]),
            helper.make_node("Unsqueeze", ["light", "second"], ["right"]),
            helper.make_node("Unsqueeze", ["dark", "second"], ["left"]),
            helper.make_node("Concat", ["left", "right"], ["probabilities"], axis=1),
        ]
        constants = {
            "axes": np.array([1, 2, 3]), "most": np.float32(255), "one": np.float32(1), "second": np.array([1])
        }  # fmt: skip
        graph = helper.make_graph(
            nodes, "tiny",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
            [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        if facts is not None:
            helper.set_model_props(model, {"tintype": json.dumps(facts)})
        (tmp_path / "export").mkdir(exist_ok=True)
        onnx.save(model, tmp_path / "export" / name)
        return tmp_path / "export"

    return write


def test_a_directory_and_its_file_are_the_same(write_model: WriteModel) -> None:
    folder = write_model()
    for path in (folder, folder / "model.onnx"):
        exported = Exported(path, threads=1)
        assert (exported.name, exported.classes, exported.threshold) == ("tiny", ("dark", "light"), 0.75)
        assert (exported.geometry, exported.max_megapixels) == (Geometry(4, 1, "crop"), 12.0)
        assert exported.statistics.mean == 90.0
        assert exported.card is None
    (folder / "card.html").touch()
    assert Exported(folder, threads=1).card == folder / "card.html"


def test_grey_images_of_the_models_own_size_have_one_channel(write_model: WriteModel) -> None:
    images = np.stack([np.full((4, 4, 1), level, np.uint8) for level in (0, 51, 255)])
    found = Exported(write_model(), threads=1).probabilities(images)
    np.testing.assert_allclose(found, np.array([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]]), atol=1e-6)
    assert found.dtype == np.float32


def test_an_export_without_maps_has_none(write_model: WriteModel) -> None:
    images = np.zeros((1, 4, 4, 1), np.uint8)
    assert Exported(write_model(), threads=1).maps(images, np.zeros(1, np.int64)) is None


def test_what_is_no_export_is_one_line(write_model: WriteModel, tmp_path: Path) -> None:
    folder = write_model()
    cases: list[tuple[Path, bool, str]] = [
        (tmp_path / "absent", False, r"there is no exported model .*absent"),
        (folder, True, r"model-int8\.onnx\. `tintype export RUN --int8` makes one"),
        (folder / "model.onnx", True, "name the export directory"),
        (write_model(None, "plain.onnx") / "plain.onnx", False, "was not made by `tintype export`"),
        (write_model({**FACTS, "format": 99}, "later.onnx") / "later.onnx", False, "has format 99"),
    ]
    (folder / "damaged.onnx").write_bytes(b"no model")
    cases.append((folder / "damaged.onnx", False, "cannot be read as an ONNX model"))
    for path, int8, words in cases:
        with pytest.raises(RunError, match=words) as caught:
            Exported(path, threads=1, int8=int8)
        assert "\n" not in str(caught.value)


def test_providers_are_asked_in_the_order_of_their_speed() -> None:
    shuffled = ["CPUExecutionProvider", "AzureExecutionProvider", "OpenVINOExecutionProvider", "CUDAExecutionProvider",
                "TensorrtExecutionProvider"]  # fmt: skip
    assert preferred_providers(shuffled) == [
        "TensorrtExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider",
    ]  # fmt: skip
    assert preferred_providers(["AzureExecutionProvider", "CPUExecutionProvider"]) == ["CPUExecutionProvider"]


def test_without_onnxruntime_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        module.onnxruntime()


def test_an_export_is_read_without_torch(write_model: WriteModel) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tintype.serving.exported import Exported\n"
        "Exported(Path(sys.argv[1]), 1)\n"
        "print(*sorted({'torch', 'scipy', 'sklearn', 'timm', 'pydantic', 'onnx'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, write_model()], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(write_model: WriteModel) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime computes on CPUs alone")
    exported = Exported(write_model(), threads=1)
    assert "CUDAExecutionProvider" in exported.providers
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)
    light = images.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(exported.probabilities(images)[:, 1], light, atol=1e-5)
