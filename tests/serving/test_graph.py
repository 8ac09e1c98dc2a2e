"""Networks of all kinds as ONNX, beside the same networks in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.data.decode import Geometry, decode_image
from tintype.errors import RunError
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.records import ImageStatistics
from tintype.rundir import RunDir
from tintype.serving.graph import Answers, captured, example_images, joined, network_model, plain_layout, planes
from tintype.serving.model import Model, load_model, save_model
from tintype.serving.resize import resize_model
from tintype.serving.run_classifier import RunClassifier

STATISTICS = ImageStatistics(10, 90.0, 40.0, 60.0, 100.0, 0.1, 0.0, 24.0, 24.0)


def finished_run(folder: Path, model: Model) -> RunDir:
    """A directory that holds a model and says that its run has ended."""
    run_dir = RunDir(folder)
    folder.mkdir()
    save_model(run_dir, model)
    (run_dir / "config.toml").touch()
    run_dir.write_json("evaluation.json", {})
    return run_dir


def session_of(model: Model) -> onnxruntime.InferenceSession:
    """Everything from whole images to probabilities, on one thread."""
    plain_layout(model.network)
    examples = planes(example_images(model.geometry, 3), model.geometry.channels)
    whole = joined(resize_model(model.geometry), network_model(captured(Answers(model).eval(), examples)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])


def noise(count: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def strengthened(network: Network) -> Network:
    """With a head so strong that answers to noise are far from even."""
    if isinstance(network.head, nn.Linear):
        with torch.no_grad():
            network.head.weight *= 8
    return network.eval()


def users_network(classes: int) -> nn.Module:
    """A user's own module, which cuts its input into patches by its code, and knows no size."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, 4)
            self.norm = nn.LayerNorm(8)
            self.out = nn.Linear(8, classes)

        def forward(self, images_NCHW: Tensor) -> Tensor:
            tokens = self.norm(self.embed(images_NCHW).flatten(2).transpose(1, 2))
            attention = torch.softmax(tokens @ tokens.transpose(1, 2), dim=2)
            logits: Tensor = self.out((attention @ tokens).mean(dim=1) * 20)
            return logits

    return Own()


GREY = ModelConfig(layers="conv 8 5 relu\nbn\npool 2\nflatten\ndense 16 relu\ndropout 0.5\n", standardize="pixel")
DEEP = ModelConfig(layers="conv 8 3 bias=no\nbn\nrelu\nresidual 8\nresidual 16\ngap\n", flip_average=True)

LABS = {
    "A2": (ModelConfig(name="cats_dogs"), Geometry(180, 3, "stretch"), 2),
    "E3": (ModelConfig(name="mnist_ablation_bn_kernel5_conv128"), Geometry(28, 1, "stretch"), 10),
    "ResNet-20": (ModelConfig(name="resnet20"), Geometry(32, 3, "stretch"), 10),
    "MobileNetV2": (ModelConfig(backbone="mobilenetv2_100", weights="none"), Geometry(96, 3, "crop"), 2),
}
OWN = ModelConfig(name=f"{__name__}:users_network")


@pytest.mark.parametrize(
    ("config", "geometry", "classes", "temperature"),
    [
        pytest.param(GREY, Geometry(28, 1, "pad"), 10, 0.6, id="grey-per-pixel"),
        pytest.param(DEEP, Geometry(24, 3, "crop"), 2, 1.7, id="sigmoid-flip-average"),
        pytest.param(OWN, Geometry(24, 3, "stretch"), 3, 1.0, id="module"),
        *(pytest.param(*item, 1.2, id=name, marks=pytest.mark.slow) for name, item in LABS.items()),
    ],
)
def test_onnx_says_what_the_run_says(
    config: ModelConfig, geometry: Geometry, classes: int, temperature: float, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    torch.manual_seed(1)
    shape = (geometry.channels, geometry.size, geometry.size)
    if config is OWN:
        network = Network(users_network(classes), nn.Identity(), "softmax", shape, [0.4] * 3, [0.2] * 3)
        monkeypatch.setattr("tintype.serving.model.build_network", lambda *_: Network(
            users_network(classes), nn.Identity(), "softmax", shape, [0.4] * 3, [0.2] * 3))  # fmt: skip
    else:
        random = np.random.default_rng(0)
        of_statistics = shape if config.standardize == "pixel" else (shape[0], 1, 1)
        mean, std = random.uniform(0.3, 0.6, of_statistics), random.uniform(0.1, 0.3, of_statistics)
        network = build_network(config, shape, classes, mean, std)
    names = tuple(f"class {number}" for number in range(classes))
    model = Model(strengthened(network), config, names, geometry, STATISTICS, temperature, 89.0)
    run_dir = finished_run(tmp_path / "run", model)
    session, run = session_of(load_model(run_dir)), RunClassifier(run_dir.path, "cpu")

    for count in (1, 5):
        images = noise(count, 61, 47)
        resized = np.stack([decode_image(image, geometry, 89.0) for image in images])
        expected = run.probabilities(resized)
        (found,) = session.run(None, {"images": images})
        assert found.shape == (count, classes)
        np.testing.assert_allclose(found, expected, atol=5e-3)
        own = np.repeat(resized, 3 // geometry.channels, axis=3)
        (found,) = session.run(None, {"images": own})
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert 0.01 < expected.max(axis=1).min() < 0.999  # else any network agrees


def test_code_that_cannot_be_followed_is_one_line() -> None:
    class Moody(nn.Module):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            logits: Tensor = images_NCHW.float().mean(dim=(2, 3))[:, :2]
            return logits if logits.sum() > 0 else -logits

    with pytest.raises(RunError, match="cannot be exported: PyTorch cannot follow its code") as caught:
        captured(Moody().eval(), torch.zeros((5, 3, 8, 8)))
    assert "\n" not in str(caught.value)


def test_code_that_knows_the_number_of_images_is_one_line() -> None:
    class Fixed(nn.Module):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            return images_NCHW.float().reshape(23, -1)[:, :2]

    with pytest.raises(RunError, match="for any number of images"):
        captured(Fixed().eval(), torch.zeros((23, 3, 8, 8)))
