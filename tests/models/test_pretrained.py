"""Where weights are looked for and in which order, what files may say, and what happens without a network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tintype.errors import ConfigError, RunError
from tintype.models.hub import hub_trouble
from tintype.models.pretrained import (
    ARGUMENTS,
    available,
    check_arguments,
    find_weights,
    read_source,
    read_words,
    timm_config,
    weights_at_hand,
)

OURS = {"mean": "0.5,0.4,0.3", "std": "0.1,0.2,0.3", "input": "3,96,96"}


def put(path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.zeros(2)}, path, metadata)
    return path


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is named, nothing is kept, and the hub is a port at which nobody listens."""
    monkeypatch.delenv("TINTYPE_WEIGHTS", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub")
    return tmp_path / "hub"


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path, offline: bool = False) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


# What a file says.


def test_everything_a_file_says_is_read(tmp_path: Path) -> None:
    words = OURS | {"timm": "mobilenetv2_100", "kwargs": '{"pad_type": "same", "bn_eps": 0.001, "qkv_bias": false}'}
    source = read_source(put(tmp_path / "w.safetensors", words))
    assert source.path == tmp_path / "w.safetensors"
    assert source.architecture == "mobilenetv2_100"
    assert source.arguments == {"pad_type": "same", "bn_eps": 0.001, "qkv_bias": False}
    assert source.image_size == 96
    assert source.mean == (0.5, 0.4, 0.3)
    assert source.std == (0.1, 0.2, 0.3)
    assert source.description == f"w.safetensors in {tmp_path}"


@pytest.mark.data
def test_the_published_files_say_what_is_needed(shared_weights: Callable[[str], Path]) -> None:
    source = read_source(shared_weights("mobilenetv2_100_imagenet"))
    assert (source.architecture, source.arguments, source.image_size) == ("mobilenetv2_100", {"pad_type": "same"}, 224)
    for depth in (20, 56):
        source = read_source(shared_weights(f"resnet{depth}_cifar10"))
        assert (source.architecture, source.arguments, source.image_size) == (f"resnet{depth}_cifar10", {}, 32)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": "0.5,0.5,0.5"}, "does not say how its images were standardised"),
        ({"mean": "0.5,0.5", "std": "1,1"}, "mean must be 1 or 3 numbers, one per channel. Got '0.5,0.5'"),
        ({"mean": "a,b,c", "std": "1,1,1"}, "mean must be 1 or 3 numbers"),
        ({"mean": "0,0,0", "std": "1,nan,1"}, "std must be 1 or 3 numbers"),
        ({"mean": "0,0,0", "std": "1,-1,1"}, "std must be 1 or 3 numbers"),
        ({"mean": "0,0,0", "std": "1"}, "mean and std must have a number per channel each. Got 3 and 1"),
        ({"input": "224"}, "input must be channels, height and width, such as 3,224,224. Got '224'"),
        ({"input": "3,0,0"}, "input must be"),
        ({"input": "3,99999999999,1"}, "input must be"),
        ({"kwargs": "{"}, "kwargs in its metadata must be a flat JSON object"),
        ({"kwargs": "[" * 100_000}, "kwargs in its metadata must be a flat JSON object"),
        ({"kwargs": "[1]"}, "must be a flat table of names and values"),
        ({"kwargs": '{"pad_type": {"a": 1}}'}, "pad_type must be a word, a number, true or false. Got \"{'a': 1}\""),
        ({"kwargs": '{"pad_type": null}'}, "pad_type must be a word"),
        ({"kwargs": '{"pad_type": "/etc/passwd"}'}, "pad_type must be a word"),
        ({"kwargs": '{"pad_type": "a\\nb"}'}, "pad_type must be a word"),
        ({"kwargs": '{"drop_rate": NaN}'}, "drop_rate must be a word"),
        ({"kwargs": '{"drop_rate": 1e999}'}, "drop_rate must be a word"),
    ],
)
def test_files_that_say_what_cannot_be_are_refused(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    base = {} if "mean" in metadata else OURS
    with pytest.raises(ConfigError, match=message) as caught:
        read_source(put(tmp_path / "w.safetensors", base | metadata))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# Each of these is an argument of timm.create_model that loads, downloads, or unpickles something, or sizes a network.
@pytest.mark.parametrize(
    "name",
    [
        "pretrained",
        "checkpoint_path",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
        "features_only",
        "out_indices",
        "pruned",
        "scriptable",
        "in_chans",
        "num_classes",
        "img_size",
        "embed_dim",
        "depth",
        "mlp_ratio",
        "__class__",
        "device",
    ],
)
@pytest.mark.parametrize("value", [True, "timm", "/tmp/evil.pth"])
def test_a_file_cannot_make_timm_load_or_grow(tmp_path: Path, name: str, value: bool | str) -> None:
    with pytest.raises(ConfigError, match=f"{name}' is nothing that a network may be told"):
        read_source(put(tmp_path / "w.safetensors", OURS | {"kwargs": json.dumps({name: value})}))
    with pytest.raises(ConfigError, match="model: "):
        check_arguments({name: value}, "model")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(ARGUMENTS)) | st.text(), inner),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["mean", "std", "input", "kwargs"]), st.text() | JSON.map(json.dumps)))
def test_whatever_a_header_says_is_harmless_or_refused(words: dict[str, str]) -> None:
    message, found = "", None
    try:
        found = read_words(Path("w.safetensors"), words)
    except ConfigError as error:
        message = str(error)
    if found is None:
        assert 0 < len(message) < 600
        return
    arguments, side, mean, std = found
    assert arguments.keys() <= ARGUMENTS
    assert all(isinstance(value, (bool, int, float)) or re.fullmatch(r"\w+", value) for value in arguments.values())
    assert side is None or 1 <= side <= 9999
    assert len(mean) == len(std) in (0, 1, 3)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no weights file"):
        find_weights("vgg16", str(tmp_path / "no.safetensors"))
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x02cposix\nsystem\n(X\x01\x00\x00\x00atR.")
    with pytest.raises(RunError, match="is not a safetensors file, or a damaged one"):
        read_source(tmp_path / "w.safetensors")


# Names.


def test_names() -> None:
    assert timm_config("vgg16").tag == timm_config("vgg16.tv_in1k").tag == "tv_in1k"
    with pytest.raises(ConfigError, match=r"no backbone named 'mobilnetv2_100'.*Did you mean mobilenetv2_100 or"):
        timm_config("mobilnetv2_100")
    with pytest.raises(ConfigError, match=r"There are: mobilenetv2_100\.ra_in1k"):
        timm_config("mobilenetv2_100.nobody")
    for name in ("hf-hub:timm/vgg16", "local-dir:/tmp", "/etc/passwd", "", "x" * 10_000):
        with pytest.raises(ConfigError, match="there is no backbone named") as caught:
            find_weights(name, "auto")
        assert len(str(caught.value)) < 300
        assert available(name) is None


# Folders.


def test_none_means_random_weights() -> None:
    assert find_weights("vgg16", "none") is None


def test_the_first_folder_and_the_exact_name_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, absent = tmp_path / "one", tmp_path / "two", tmp_path / "absent"
    monkeypatch.setenv("TINTYPE_WEIGHTS", os.pathsep.join([str(absent), str(one), str(two)]))
    exact = put(two / "vgg16.safetensors", OURS | {"timm": "vgg16"})
    assert find_weights("vgg16", None) == read_source(exact)
    later = put(one / "vgg16_later.safetensors", OURS | {"timm": "vgg16"})
    assert find_weights("vgg16", "auto") == read_source(later)
    put(one / "vgg16_bn.safetensors", OURS | {"timm": "vgg16_bn"})
    put(one / "vgg16_broken.safetensors").write_bytes(b"no")
    assert find_weights("vgg16", "auto") == read_source(later)
    earlier = put(one / "vgg16_a.safetensors", OURS | {"timm": "vgg16.tv_in1k"})
    assert find_weights("vgg16", "auto") == read_source(earlier)
    put(one / "vgg16.safetensors", OURS | {"timm": "vgg19"})
    with pytest.raises(ConfigError, match="holds the weights of vgg19, not of vgg16"):
        find_weights("vgg16", "auto")
    found = available("vgg16_bn")
    assert found is not None
    assert found.path.name == "vgg16_bn.safetensors"


def test_a_file_in_the_variable_and_a_folder_as_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "mine.safetensors", OURS | {"timm": "vgg16"})
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(path))
    assert find_weights("vgg16", None) == read_source(path)
    assert available("vgg19") is None
    put(tmp_path / "vgg19_x.safetensors", OURS | {"timm": "vgg19"})
    found = find_weights("vgg19", str(tmp_path))
    assert found is not None
    assert found.path.name == "vgg19_x.safetensors"
    with pytest.raises(ConfigError, match=f"there are no weights for vgg11 in {tmp_path}"):
        find_weights("vgg11", str(tmp_path))


def test_files_that_do_not_name_their_network_are_known_by_their_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(tmp_path))
    put(tmp_path / "vgg16_bn_mine.safetensors", OURS)
    put(tmp_path / "resnet20_cifar10.safetensors", OURS | {"input": "3,32,32"})
    assert available("vgg16") is None
    found = [available(name) for name in ("vgg16_bn", "resnet20", "resnet20_cifar10")]
    assert [source and source.architecture for source in found] == ["vgg16_bn", "resnet20_cifar10", "resnet20_cifar10"]
    with pytest.raises(
        ConfigError, match=r"no pretrained weights for resnet32 on this machine. Put resnet32.safetensors"
    ):
        find_weights("resnet32", "auto")


def test_a_file_as_the_hub_has_it_gets_the_preprocessing_that_timm_documents(tmp_path: Path) -> None:
    path = put(tmp_path / "inception_v3.tf_in1k.safetensors", {"format": "pt"})
    found = find_weights("inception_v3", str(tmp_path))
    assert found is not None
    assert (found.mean, found.std, found.image_size) == ((0.5,) * 3, (0.5,) * 3, 299)
    assert "standardised as timm documents inception_v3" in found.description
    with pytest.raises(ConfigError, match=r"does not say how .* `tintype import` writes a file that does"):
        read_source(path)
    with pytest.raises(ConfigError, match="does not say how"):
        find_weights("resnet20", str(path))


# The hub.


def keep(cache: Path, repository: str, metadata: dict[str, str]) -> Path:
    """A repository in the cache, laid out as huggingface_hub documents it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = "0123456789" * 4
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return put(folder / "snapshots" / commit / "model.safetensors", metadata)


@pytest.mark.parametrize("offline", [True, False])
def test_what_the_hubs_cache_holds_is_used(no_hub: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    path = keep(no_hub, "timm/mobilenetv2_100.ra_in1k", {"format": "pt"})
    source = find_weights("mobilenetv2_100", "auto")
    assert source is not None
    assert source == available("mobilenetv2_100", download=False)
    assert source.path == path
    assert (source.architecture, source.image_size) == ("mobilenetv2_100", 224)
    assert source.mean == (0.485, 0.456, 0.406)
    assert source.description == "timm/mobilenetv2_100.ra_in1k of the model hub"
    tagged = find_weights("mobilenetv2_100.ra_in1k", None)
    assert tagged is not None
    assert tagged.path == path


def test_without_a_hub_the_remedy_comes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm_config("vgg16")  # timm's import is not part of the waiting
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        find_weights("vgg16", "auto")
    assert available("vgg16") is None
    assert time.monotonic() - start < 1
    assert str(caught.value) == (
        "there are no pretrained weights for vgg16 on this machine and the model hub cannot be reached "
        "(Connection refused). Put vgg16.safetensors into a folder named by TINTYPE_WEIGHTS, give "
        "--weights PATH, or take --weights none (random)."
    )
    monkeypatch.setenv("TINTYPE_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"\(TINTYPE_WEIGHTS names .*gone, which does not exist\)"):
        find_weights("vgg16", "auto")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"cannot be reached \(HF_HUB_OFFLINE is set\)"):
        find_weights("vgg16", "auto")


class Hub(BaseHTTPRequestHandler):
    """A hub with one file, or with what ``status`` and ``pause`` make of it."""

    content = b""
    status = 200
    pause = 0.0
    asked: list[str] = []  # noqa: RUF012 - set for each server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        self.asked.append(f"{self.command} {self.path}")
        time.sleep(self.pause)
        found = "/resolve/" not in self.path or (bool(self.content) and self.path.endswith("/model.safetensors"))
        content = self.content if found else b""
        self.send_response(self.status if found else 404)
        if found:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "f" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "f" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}", no_hub)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_are_downloaded_once(hub: type[Hub], no_hub: Path, tmp_path: Path) -> None:
    hub.content = put(tmp_path / "w.safetensors", {"format": "pt"}).read_bytes()
    assert available("test_resnet", download=False) is None
    assert hub.asked == []
    source = find_weights("test_resnet", "auto")
    assert source is not None
    assert source.path.read_bytes() == hub.content
    assert source.path.is_relative_to(no_hub)
    assert source.description == "timm/test_resnet.r160_in1k of the model hub"
    assert any("/timm/test_resnet.r160_in1k/resolve/main/model.safetensors" in line for line in hub.asked)
    hub.asked.clear()
    assert find_weights("test_resnet", "auto") == available("test_resnet") == source
    assert hub.asked == []


def test_all_weights_on_this_machine_are_listed_without_asking(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    put(first / "vgg16.tv_in1k.safetensors", OURS | {"timm": "vgg16.tv_in1k"})
    put(first / "resnet20_mine.safetensors", OURS)
    put(first / "vgg16_again.safetensors", OURS | {"timm": "vgg16"})
    put(first / "unsaid.safetensors", OURS)
    put(first / "resnet18.safetensors", {"timm": "resnet18", "mean": "a,b,c", "std": "1,1,1"})
    put(first / "evil.safetensors", OURS | {"timm": "../../*"})
    (first / "resnet32.safetensors").write_bytes(b"damaged")
    put(second / "resnet20.safetensors", OURS)
    monkeypatch.setenv("TINTYPE_WEIGHTS", os.pathsep.join(str(place) for place in (first, tmp_path / "no", second)))
    hub.content = put(tmp_path / "w.safetensors", OURS).read_bytes()
    find_weights("test_resnet", "auto")
    hub.asked.clear()
    found = {source.architecture: source.path.name for source in weights_at_hand()}
    assert found == {
        "resnet20": "resnet20_mine.safetensors",
        "vgg16.tv_in1k": "vgg16.tv_in1k.safetensors",
        "test_resnet.r160_in1k": "model.safetensors",
    }
    assert hub.asked == []


def test_a_repository_without_safetensors(hub: type[Hub]) -> None:
    with pytest.raises(
        ConfigError, match=r"timm/test_resnet.r160_in1k on the model hub has no .*`tintype import`"
    ) as caught:
        find_weights("test_resnet", "auto")
    assert "\n" not in str(caught.value)
    assert not any("pytorch_model" in line or ".bin" in line for line in hub.asked)


def test_a_hub_that_is_ill_is_asked_once(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 503
    with pytest.raises(ConfigError, match=r"cannot be reached \(it answers 503\)"):
        find_weights("test_resnet", "auto")
    assert len(hub.asked) == 1
    monkeypatch.setattr("tintype.models.hub.PATIENCE", 0.2)
    hub.pause = 1.0
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot be reached \((timed out|no answer within 0 s)\)"):
        find_weights("test_resnet", "auto")
    assert time.monotonic() - start < 0.9


def test_the_hub_is_asked_through_a_proxy(hub: type[Hub], monkeypatch: pytest.MonkeyPatch, no_hub: Path) -> None:
    monkeypatch.setenv("http_proxy", huggingface_hub.constants.ENDPOINT)
    use_hub(monkeypatch, "http://hub.invalid", no_hub)
    assert hub_trouble() is None
    assert hub.asked == ["HEAD http://hub.invalid"]


def test_networks_without_published_weights(hub: type[Hub]) -> None:
    with pytest.raises(ConfigError, match="timm knows of no pretrained weights for test_mambaout"):
        find_weights("test_mambaout", "auto")
    assert hub.asked == []


def test_looking_needs_neither_torch_nor_patience(tmp_path: Path) -> None:
    """For the default choice: a process of its own, in which nothing is imported yet."""
    put(tmp_path / "vgg16_mine.safetensors", OURS | {"timm": "vgg16"})
    program = (
        "import sys, time\n"
        "start = time.monotonic()\n"
        "from tintype.models.pretrained import available\n"
        "assert available('vgg16').mean == (0.5, 0.4, 0.3)\n"
        "assert available('mobilenetv2_100') is None\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules\n"
        "assert time.monotonic() - start < 3\n"
    )
    clean = {name: word for name, word in os.environ.items() if "proxy" not in name.lower()}
    environment = clean | {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "home"),
        "TINTYPE_WEIGHTS": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
