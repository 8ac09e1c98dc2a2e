"""Other people's pickled weights: what is taken from them, what is refused, and that nothing in them ever runs."""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tintype.config import ModelConfig
from tintype.errors import ConfigError, RunError, TintypeError
from tintype.models.backbones import build_backbone, load_backbone
from tintype.models.build import build_network
from tintype.models.import_weights import import_weights
from tintype.models.pretrained import read_source
from tintype.models.weights import load_weights

PREPARED: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3), "image_size": 64}


def network(name: str = "test_resnet", **arguments: Any) -> nn.Module:
    torch.manual_seed(6)
    module = timm.create_model(name, **arguments).eval()
    assert isinstance(module, nn.Module)
    return module


def written(content: object, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def words(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_come_with_all_that_must_be_known(tmp_path: Path, zipped: bool) -> None:
    whole = network(num_classes=7)
    source = written(whole.state_dict(), tmp_path / "w.pth", zipped)
    target = tmp_path / "new" / "test_resnet.safetensors"
    found = import_weights(source, target, architecture="test_resnet", arguments={"drop_path_rate": 0.1}, **PREPARED)
    assert (found.path, found.architecture, found.found_under, found.left_out) == (target, "test_resnet", "", ())
    assert found.tensors == len(whole.state_dict())
    buffers = sum(buffer.numel() for name, buffer in whole.named_buffers() if "running" in name)
    assert found.parameters == sum(weight.numel() for weight in whole.parameters()) + buffers
    read = read_source(target)
    assert (read.architecture, read.arguments, read.image_size) == ("test_resnet", {"drop_path_rate": 0.1}, 64)
    assert (read.mean, read.std) == (PREPARED["mean"], PREPARED["std"])
    assert words(target)["origin"] == "imported from w.pth"
    module = build_backbone("test_resnet", read.arguments, (3, 64, 64), wants_map=True).eval()
    load_backbone(module, target)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(images), whole.forward_features(images))  # type: ignore[operator]


def test_what_timm_documents_need_not_be_given(tmp_path: Path) -> None:
    source = written(network().state_dict(), tmp_path / "w.pth")
    import_weights(source, tmp_path / "w.safetensors", architecture="test_resnet.r160_in1k")
    read = read_source(tmp_path / "w.safetensors")
    config: Any = timm.models.get_pretrained_cfg("test_resnet")
    assert (read.architecture, read.image_size) == ("test_resnet.r160_in1k", 160)
    assert (read.mean, read.std) == (tuple(config.mean), tuple(config.std))


def test_weights_for_an_unnamed_network_need_everything_given(tmp_path: Path) -> None:
    source = written({"a": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(
        ConfigError, match="does not say how its images were prepared: give --mean, --std, --image-size"
    ):
        import_weights(source, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="give --image-size"):
        import_weights(source, tmp_path / "w.safetensors", mean=(0.5,), std=(0.5,))
    found = import_weights(source, tmp_path / "w.safetensors", mean=(0.5,), std=(0.5,), image_size=28)
    assert (found.architecture, found.tensors, found.parameters) == (None, 1, 3)
    read = read_source(tmp_path / "w.safetensors")
    assert (read.architecture, read.image_size, read.mean) == (None, 28, (0.5,))
    assert words(tmp_path / "w.safetensors")["input"] == "1,28,28"


@pytest.mark.parametrize(
    ("wrap", "found_under", "left_out"),
    [
        (lambda state: {"state_dict": state, "epoch": 3, "best": torch.ones(1)}, "state_dict", ("epoch", "best")),
        (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, "model", ("args",)),
        (lambda state: {"net": {f"module.{name}": value for name, value in state.items()}}, "net", ()),
        (lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()}, "", ()),
        (lambda state: {"a": 1, "checkpoint": 2} | state, "", ("a", "checkpoint")),
        (
            lambda state: {"model_ema": {"module": state}, "model": {"conv1.weight": torch.zeros(1)}},
            "model_ema.module",
            ("model",),
        ),
        (
            lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()},
            "",
            ("n_averaged",),
        ),
    ],
)
def test_the_ways_in_which_training_scripts_save(
    tmp_path: Path,
    wrap: Callable[[dict[str, Tensor]], dict[str, object]],
    found_under: str,
    left_out: tuple[str, ...],
) -> None:
    state = network().state_dict()
    source = written(wrap(dict(state)), tmp_path / "w.pth")
    found = import_weights(source, tmp_path / "w.safetensors", architecture="test_resnet")
    assert (found.found_under, found.left_out) == (found_under, left_out)
    tensors = load_file(tmp_path / "w.safetensors")
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_weights_that_share_memory_or_are_laid_out_otherwise(tmp_path: Path) -> None:
    tied = torch.rand(4, 5, 3, 3)
    content = {
        "a": tied,
        "b": tied,
        "c": torch.rand(4, 5, 3, 3).to(memory_format=torch.channels_last),
        "d": nn.Parameter(tied[0]),
    }
    import_weights(written(content, tmp_path / "w.pth"), tmp_path / "w.safetensors", **PREPARED)
    tensors = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in content.items())


def test_published_cifar_weights_load_like_the_shared_ones(tmp_path: Path) -> None:
    """As github.com/akamaster/pytorch_resnet_cifar10 saves them."""
    torch.manual_seed(6)
    ours = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10).state_dict()
    theirs = {
        "module." + name.removeprefix("body.").replace("residual", "layer").replace("head.", "linear."): value
        for name, value in ours.items()
        if name not in ("mean", "std")
    }
    source = written({"state_dict": theirs, "best_prec1": 91.78}, tmp_path / "resnet20-12fca82f.th")
    target = tmp_path / "resnet20_cifar10.safetensors"
    with pytest.raises(ConfigError, match="give --mean, --std"):
        import_weights(source, target, architecture="resnet20_cifar10")
    import_weights(source, target, architecture="resnet20_cifar10", mean=PREPARED["mean"], std=PREPARED["std"])
    assert read_source(target).architecture == "resnet20_cifar10"
    assert words(target)["input"] == "3,32,32"
    fresh = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 10)
    load_weights(fresh, target)
    assert torch.equal(fresh.head.get_parameter("weight"), ours["head.weight"])
    with pytest.raises(ConfigError, match=r"do not fit this network: 60 missing"):
        import_weights(source, target, architecture="resnet32", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_torchvisions_names_become_timms(tmp_path: Path) -> None:
    features = timm.create_model("vgg11", mlp_ratio=1 / 4096).get_submodule("features")
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    state |= {"classifier.6.weight": torch.ones(5, 8), "classifier.6.bias": torch.ones(5)}
    import_weights(
        written(state, tmp_path / "vgg11-8a719046.pth"), tmp_path / "vgg11.safetensors", architecture="vgg11"
    )
    assert {"features.0.weight", "head.fc.bias"} < load_file(tmp_path / "vgg11.safetensors").keys()


def test_safetensors_get_what_they_lack(tmp_path: Path) -> None:
    state = network(drop_rate=0.2).state_dict()
    save_file(
        state, tmp_path / "model.safetensors", {"format": "pt", "kwargs": '{"drop_rate": 0.2}', "origin": "a friend"}
    )
    import_weights(tmp_path / "model.safetensors", tmp_path / "w.safetensors", architecture="test_resnet", **PREPARED)
    assert words(tmp_path / "w.safetensors") == {
        "timm": "test_resnet",
        "mean": "0.5,0.4,0.3",
        "std": "0.1,0.2,0.3",
        "input": "3,64,64",
        "kwargs": '{"drop_rate": 0.2}',
        "origin": "a friend",
    }
    # What a file says is kept where nothing else is given, and a file may be written over itself.
    found = import_weights(tmp_path / "w.safetensors", tmp_path / "w.safetensors", image_size=96)
    assert found.architecture == "test_resnet"
    assert read_source(tmp_path / "w.safetensors").image_size == 96
    save_file(state, tmp_path / "evil.safetensors", {"kwargs": '{"checkpoint_path": "/tmp/x.pth"}'})
    with pytest.raises(ConfigError, match="'checkpoint_path' is nothing that a network may be told"):
        import_weights(tmp_path / "evil.safetensors", tmp_path / "x.safetensors", architecture="test_resnet")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "test_resnat"}, "no backbone named 'test_resnat'.*Did you mean test_resnet"),
        ({"architecture": "test_nfnet"}, "do not fit this network: .* missing: .* unexpected: "),
        ({"architecture": "test_resnet", "mean": (123.7, 116.3, 103.5)}, r"Got 123.7,116.3,103.5. Divide .* by 255"),
        ({"architecture": "test_resnet", "mean": (0.5, 0.5)}, "--mean must be 1 or 3 numbers in the scale 0..1"),
        ({"architecture": "test_resnet", "std": (0.5, 0.0, 0.5)}, "--std must be 1 or 3 numbers"),
        ({"architecture": "test_resnet", "std": (0.5,)}, "mean and std must have a number per channel each"),
        ({"architecture": "test_resnet", "image_size": 0}, "--image-size must be from 1 to 9999. Got 0"),
        ({"architecture": "test_resnet", "arguments": {"pretrained": True}}, "'pretrained' is nothing that"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    source = written(network().state_dict(), tmp_path / "w.pth")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=message) as caught:
        import_weights(source, tmp_path / "out" / "w.safetensors", **given)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ConfigError, match=r"must end in .safetensors. Got 'w.pth'"):
        import_weights(source, tmp_path / "out" / "w.pth", architecture="test_resnet")


def test_every_mismatch_is_named(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    del state["bn1.weight"]
    state["layer1.0.bn2.bias"] = torch.ones(3)
    source = written(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"1 missing: bn1.weight; 1 of another shape or type: layer1.0.bn2.bias"):
        import_weights(source, tmp_path / "w.safetensors", architecture="test_resnet")


# Hostile files.


class Touch:
    """Pickled, it makes a file when it is read by a reader that runs what it is told."""

    def __init__(self, path: Path, by: str) -> None:
        self.path = path
        self.by = by

    def __reduce__(self) -> tuple[Any, ...]:
        if self.by == "system":
            return os.system, (f"touch {self.path}",)
        if self.by == "eval":
            return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)
        return pathlib.Path.touch, (self.path,)


def payloads(kind: str, by: str, mark: Path) -> bytes:
    evil = Touch(mark, by)
    if kind == "bare pickle":
        return pickle.dumps({"state_dict": evil})
    buffer = io.BytesIO()
    zipped = kind != "legacy"
    content = {"state_dict": {"conv1.weight": torch.ones(2)}, "extra": evil} if kind == "beside weights" else evil
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize("by", ["system", "eval", "touch"])
@pytest.mark.parametrize("kind", ["bare pickle", "legacy", "zip", "beside weights"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_code_in_a_file_never_runs(tmp_path: Path, kind: str, by: str, name: str) -> None:
    mark = tmp_path / "mark"
    data = payloads(kind, by, mark)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TintypeError) as caught:
        import_weights(tmp_path / name, tmp_path / "out.safetensors", architecture="test_resnet")
    assert not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    if name == "w.pth" and kind != "bare pickle":
        assert "holds more than weights" in str(caught.value)
    # The payload is a real one: a reader that trusts it does what it says.
    torch.load(io.BytesIO(data), weights_only=False) if kind != "bare pickle" else pickle.loads(data)
    assert mark.exists()


def bomb() -> bytes:
    """A file of weights whose entries are compressed: 64 MiB of zeros in some kilobytes."""
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(2**24)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    return packed.getvalue()


def saved_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a file of weights, or a damaged one"),
    "text": (lambda: b"hello, these are my weights", "damaged"),
    "truncated": (lambda: saved_bytes({"a": torch.rand(1000)})[:-900], "damaged"),
    "truncated pickle": (lambda: pickle.dumps({"a": 1})[:-3], "damaged"),
    "huge header": (lambda: (2**62).to_bytes(8, "little") + b"{}", "not a safetensors file, or a damaged one"),
    "compressed": (bomb, "is compressed, which files of weights never are"),
    "grows": (lambda: saved_bytes({"a": torch.ones(1).expand(10**6, 10**6)}), "claim more than twice the"),
    "sparse": (lambda: saved_bytes({"a": torch.eye(3).to_sparse()}), "a is not a plain tensor of numbers"),
    "complex": (lambda: saved_bytes({"a": torch.ones(3, dtype=torch.complex64)}), "a is not a plain tensor"),
    "meta": (lambda: saved_bytes({"a": torch.ones(10**9, 10**9, device="meta")}), "a is not a plain tensor"),
    "a list": (lambda: saved_bytes([torch.ones(3)]), "holds no weights under a name that is known"),
    "no tensors": (lambda: saved_bytes({"epoch": 3, "state_dict": {}}), "holds no weights"),
    "nested deeply": (
        lambda: saved_bytes({"model": {"model": {"model": {"model": {"model": {"a": torch.ones(3)}}}}}}),
        "holds no weights",
    ),
    "a module": (lambda: saved_bytes(nn.Linear(2, 2)), "holds more than weights.*torch.nn.modules.linear.Linear"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_damaged_and_hostile_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, message = HOSTILE[kind]
    (tmp_path / "w.pth").write_bytes(make())
    with pytest.raises(RunError, match=message) as caught:
        import_weights(tmp_path / "w.pth", tmp_path / "w.safetensors", **PREPARED)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


WHOLE = saved_bytes({"state_dict": {"a": torch.arange(6.0), "b": torch.arange(3)}, "epoch": 3})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_whatever_bytes_are_changed_the_user_gets_one_line_or_weights(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for position, value in changes:
        data[position] = value
    (tmp_path / "w.pth").write_bytes(data)
    try:
        import_weights(tmp_path / "w.pth", tmp_path / "w.safetensors", **PREPARED)
        message = ""
    except TintypeError as error:
        message = str(error)
    assert "\n" not in message
    assert message or load_file(tmp_path / "w.safetensors")


def test_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no weights file"):
        import_weights(tmp_path / "no.pth", tmp_path / "w.safetensors", **PREPARED)
    with pytest.raises(RunError, match="cannot be read"):
        import_weights(tmp_path, tmp_path / "w.safetensors", **PREPARED)


def test_an_archive_that_claims_to_span_several_disks_is_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)  # the end of a ZIP64 archive on two disks
    (tmp_path / "split.pth").write_bytes(content[:-22] + locator + content[-22:])
    with pytest.raises(RunError, match="not a file of weights") as caught:
        import_weights(tmp_path / "split.pth", tmp_path / "out.safetensors", mean=(0.5,), std=(0.5,), image_size=8)
    assert "\n" not in str(caught.value)
