"""Weights from files: ours, published ones, and files that must be refused."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tintype.config import ModelConfig
from tintype.errors import ConfigError, RunError
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.models.weights import load_weights, save_weights


def small(seed: int = 0, classes: int = 4, filters: int = 5, standardize: str = "channel") -> Network:
    torch.manual_seed(seed)
    text = f"conv {filters} 3 relu\nbn\nresidual 6\nflatten\ndense 7 relu"
    config = ModelConfig.model_validate({"layers": text, "standardize": standardize})
    statistics = torch.rand(3, 8, 8) if standardize == "pixel" else torch.rand(3)
    return build_network(config, (3, 8, 8), classes, statistics, statistics + 0.1).eval()


def images(size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("standardize", ["channel", "pixel"])
def test_saved_and_loaded_weights_are_the_same(tmp_path: Path, standardize: str) -> None:
    trained, fresh = small(1, standardize=standardize), small(2, standardize=standardize)
    assert not torch.equal(trained(images()), fresh(images()))
    save_weights(trained, tmp_path / "w.safetensors", {"note": "grey"})
    load_weights(fresh, tmp_path / "w.safetensors")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())
    assert torch.equal(trained(images()), fresh(images()))


def test_head_can_be_left_as_it_is(tmp_path: Path) -> None:
    save_weights(small(1, classes=9), tmp_path / "w.safetensors")
    fresh = small(2)
    head = fresh.head.get_parameter("weight").clone()
    with pytest.raises(ConfigError, match=r"head.weight \(file \(9, 7\) float32, network \(4, 7\)\)"):
        load_weights(fresh, tmp_path / "w.safetensors")
    load_weights(fresh, tmp_path / "w.safetensors", with_head=False)
    assert torch.equal(fresh.head.get_parameter("weight"), head)
    torch.testing.assert_close(fresh.features(images()), small(1, classes=9).features(images()))


def test_every_mismatch_is_named_in_one_error_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(small(1), path)
    tensors = load_file(path)
    tensors["body.extra.weight"] = torch.ones(2)
    del tensors["body.bn1.running_mean"]
    del tensors["mean"]
    tensors["body.bn1.bias"] = torch.ones(6)
    tensors["head.bias"] = torch.ones(4, dtype=torch.int64)
    save_file(tensors, path)
    fresh = small(2)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_weights(fresh, path)
    message = str(caught.value)
    assert "2 missing: mean, body.bn1.running_mean;" in message
    assert "1 unexpected: body.extra.weight;" in message
    assert "2 of another shape or type: " in message
    assert "body.bn1.bias (file (6,) float32, network (5,))" in message
    assert "head.bias (file (4,) int64, network (4,))" in message
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_half_precision_files_load(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(small(1), path)
    halves = {name: value.bfloat16() if value.is_floating_point() else value for name, value in load_file(path).items()}
    save_file(halves, path)
    fresh = small(2)
    load_weights(fresh, path)
    assert fresh.mean.dtype == torch.float32
    torch.testing.assert_close(fresh(images()), small(1)(images()), rtol=0.1, atol=0.1)


def hostile_files() -> dict[str, bytes]:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    lying = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 16]}}).encode()
    return {
        "empty": b"",
        "pickle": pickle.dumps({"body.conv1.weight": [1.0, 2.0]}),
        "huge header": struct.pack("<Q", 2**62) + b"{}",
        "header past the end": struct.pack("<Q", 5000) + b"{}",
        "not JSON": struct.pack("<Q", 4) + b"abcd",
        "truncated": struct.pack("<Q", len(header)) + header + b"\0" * 7,
        "shape without data": struct.pack("<Q", len(lying)) + lying + b"\0" * 16,
        "deep JSON": struct.pack("<Q", 200_000) + b"[" * 200_000,
    }


@pytest.mark.parametrize("kind", list(hostile_files()))
def test_damaged_and_hostile_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(hostile_files()[kind])
    with pytest.raises(RunError, match="is not a safetensors file, or a damaged one") as caught:
        load_weights(small(), path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no weights file"):
        load_weights(small(), tmp_path / "no.safetensors")
    with pytest.raises(RunError, match=r"cannot be read|not a safetensors file"):
        load_weights(small(), tmp_path)


def resnet20() -> Network:
    return build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10).eval()


def published(tmp_path: Path, metadata: dict[str, str]) -> Path:
    """A file as others write it: their names, no count of training steps, preprocessing in the header."""
    torch.manual_seed(7)
    tensors = {}
    for name, value in resnet20().state_dict().items():
        theirs = name.removeprefix("body.").replace("residual", "layer").replace("head.", "linear.")
        if theirs not in ("mean", "std") and "num_batches" not in name:
            tensors[theirs] = value.contiguous()
    save_file(tensors, tmp_path / "theirs.safetensors", metadata)
    return tmp_path / "theirs.safetensors"


def test_published_names_and_preprocessing(tmp_path: Path) -> None:
    path = published(tmp_path, {"mean": "0.485,0.456,0.406", "std": "0.229, 0.224, 0.225"})
    network = resnet20()
    load_weights(network, path)
    np.testing.assert_allclose(network.mean.flatten(), [0.485, 0.456, 0.406])
    np.testing.assert_allclose(network.std.flatten(), [0.229, 0.224, 0.225])
    original = load_file(path)
    assert torch.equal(network.get_parameter("body.residual2.0.conv1.weight"), original["layer2.0.conv1.weight"])
    assert torch.equal(network.get_parameter("head.bias"), original["linear.bias"])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"does not say how its images were standardised \(no 'mean' in its metadata\)"),
        ({"mean": "0.5,0.5,0.5"}, "no 'std' in its metadata"),
        ({"mean": "0.5,0.5", "std": "1,1"}, "mean must be 3 numbers, one per channel. Got '0.5,0.5'"),
        ({"mean": "a,b,c", "std": "1,1,1"}, "mean must be 3 numbers"),
        ({"mean": "0,0,0", "std": "1,nan,1"}, "std must be 3 numbers"),
    ],
)
def test_published_weights_must_say_their_preprocessing(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_weights(resnet20(), published(tmp_path, metadata))


def test_long_lists_of_mismatches_are_counted(tmp_path: Path) -> None:
    path = published(tmp_path, {"mean": "0.5,0.5,0.5", "std": "1,1,1"})
    larger = build_network(ModelConfig(name="resnet32"), (3, 32, 32), 10)
    with pytest.raises(ConfigError, match=r"60 missing: body\.residual1\.3\.conv1\.weight, .* \.\.\.\.$") as caught:
        load_weights(larger, path)
    assert len(str(caught.value)) < 1_000


@pytest.mark.data
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_published_weights_classify_their_training_images(
    name: str, shared_weights: Callable[[str], Path], shared_data: Callable[[str], Path]
) -> None:
    """CIFAR-10's labels are in alphabetical order, so class folders in sorted order are its label ids."""
    network = build_network(ModelConfig(name=name), (3, 32, 32), 10).eval()
    load_weights(network, shared_weights(f"{name}_cifar10"))
    folders = sorted(path for path in shared_data("cifar10_4k").iterdir() if path.is_dir())
    assert [folder.name for folder in folders][:2] == ["airplane", "automobile"]
    files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    files = files[:: 4 if name == "resnet20" else 8]
    pixels_NHWC = torch.tensor(np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files]))
    labels = torch.tensor([label for _, label in files])
    with torch.no_grad():
        predicted = network(pixels_NHWC.permute(0, 3, 1, 2)).argmax(1)
    assert (predicted == labels).float().mean() >= 0.99
