"""Backbones: exactly what the features need, computing what timm computes, with weights that must fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from tintype.config import ModelConfig
from tintype.errors import ConfigError, RunError
from tintype.models import zoo
from tintype.models.backbones import build_backbone, feature_shape, load_backbone
from tintype.models.build import build_network
from tintype.models.graph import cut_behind
from tintype.models.pretrained import ALIASES, read_source
from tintype.models.weights import save_weights


def images(side: int, channels: int = 3, count: int = 2) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(7))


def pooled(whole: Any, images_NCHW: Tensor) -> Tensor:
    """What timm itself gives to a network's classifier."""
    with torch.no_grad():
        result = whole.forward_head(whole.forward_features(images_NCHW), pre_logits=True)
    assert isinstance(result, Tensor)
    return result


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def answer(module: nn.Module, images_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        result = module.eval()(images_NCHW)
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [("vgg16", 32, 14_714_688), ("mobilenetv2_100", 32, 2_223_872), ("inception_v3", 80, 21_785_568)],
)
def test_exact_parameter_counts(name: str, side: int, count: int) -> None:
    module = build_backbone(name, {}, (3, side, side), wants_map=True)
    assert parameters(module) == count
    assert module.training
    assert not any(key.startswith(("pre_logits", "head", "classifier", "fc")) for key in module.state_dict())


NETWORKS: list[tuple[str, dict[str, Any], int]] = [
    ("test_resnet", {}, 64),
    ("test_nfnet", {}, 64),
    ("mobilenetv3_small_050", {"pad_type": "same"}, 64),
    ("regnetx_002", {}, 64),
    ("convnext_atto", {}, 64),
    ("edgenext_xx_small", {}, 64),
]


@pytest.mark.parametrize("wants_map", [True, False])
@pytest.mark.parametrize(("name", "arguments", "side"), NETWORKS)
def test_features_are_timms_own(name: str, arguments: dict[str, Any], side: int, wants_map: bool) -> None:
    """From one seed timm's network has the same weights, so the same images must give the same features."""
    torch.manual_seed(3)
    module = build_backbone(name, arguments, (3, side, side), wants_map)
    torch.manual_seed(3)
    whole: Any = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        expected = whole.forward_features(images(side)) if wants_map else pooled(whole, images(side))
    torch.testing.assert_close(answer(module, images(side)), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(module, fx.GraphModule)
    assert set(module.state_dict()) < set(whole.state_dict())
    assert feature_shape(module, (3, side, side)) == tuple(expected.shape[1:])


@pytest.mark.parametrize(("name", "side"), [("vit_tiny_patch16_224", 64), ("levit_128s", 224), ("test_mambaout", 64)])
def test_networks_without_a_map_give_their_pooled_features(name: str, side: int) -> None:
    with pytest.raises(
        ConfigError, match=f"backbone {name} has no map of channels; leave flatten, gap and the like out"
    ):
        build_backbone(name, {}, (3, side, side), wants_map=True)
    torch.manual_seed(3)
    module = build_backbone(name, {}, (3, side, side), wants_map=False)
    torch.manual_seed(3)
    arguments: dict[str, Any] = {"img_size": side} if name.startswith("vit") else {}
    whole = timm.create_model(name, **arguments).eval()
    torch.testing.assert_close(answer(module, images(side)), pooled(whole, images(side)), rtol=1e-4, atol=1e-5)
    assert isinstance(module, fx.GraphModule)
    assert set(module.state_dict()) < set(whole.state_dict())


def test_a_list_of_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="backbone crossvit_tiny_240 gives several maps"):
        build_backbone("crossvit_tiny_240", {}, (3, 240, 240), wants_map=True)


def test_vgg_has_timms_initialisation_though_most_of_it_is_never_drawn() -> None:
    modules = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        modules.append(build_backbone("vgg11", {}, (3, 32, 32), wants_map=True))
    weights = [module.get_parameter("features.3.weight") for module in modules]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    # He et al. (2015), fan out, as in timm: sqrt(2 / (128 * 9)) for 128 filters of 3 x 3.
    assert weights[0].std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)
    assert not modules[0].get_parameter("features.3.bias").any()


def test_random_layers_work_in_training_and_not_in_evaluation() -> None:
    module = build_backbone("mobilenetv3_small_050", {"drop_path_rate": 0.9}, (3, 64, 64), wants_map=True)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first, second = module.train()(images(64, count=8)), module(images(64, count=8))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    moved = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all("running" in key or "num_batches" in key for key in moved)
    assert torch.equal(answer(module, images(64)), answer(module, images(64)))


def test_feature_shape_leaves_no_trace() -> None:
    module = build_backbone("test_resnet", {}, (3, 64, 64), wants_map=True)
    module.train()
    module.get_submodule("layer1").eval()
    modes = [part.training for part in module.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert feature_shape(module, (3, 96, 96)) == (96, 3, 3)
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "message"),
    [
        ("vgg16", {}, (1, 32, 32), r'vgg16 takes colour images. Set data.color = "rgb"'),
        ("mnist_convnet", {}, (3, 28, 28), r'mnist_convnet takes grey images. Set data.color = "grey"'),
        (
            "inception_v3",
            {},
            (3, 32, 32),
            r"inception_v3 cannot take images of 32 x 32 pixels .* --image-size, such as 299",
        ),
        ("vgg61", {}, (3, 32, 32), r"no backbone named 'vgg61', neither in timm nor in the zoo. Did you mean .*vgg16"),
        ("resnet20_cifar100", {}, (3, 32, 32), "Did you mean resnet20_cifar10"),
        ("hf-hub:timm/vgg16.tv_in1k", {}, (3, 32, 32), "no backbone named"),
        ("local-dir:/tmp", {}, (3, 32, 32), "no backbone named"),
        ("vgg16.tv_in22k", {}, (3, 32, 32), r"no weights named 'vgg16.tv_in22k'. There are: vgg16.tv_in1k"),
        ("vgg16", {"pad_type": "same"}, (3, 32, 32), "timm cannot build vgg16 with pad_type=same: .*pad_type"),
        ("test_resnet", {"act_layer": "no_such"}, (3, 32, 32), "timm cannot build test_resnet with act_layer=no_such"),
        ("resnet20", {"pad_type": "same"}, (3, 32, 32), "network of the zoo and takes no backbone_arguments"),
        ("mlp_128", {}, (1, 28, 28), "mlp_128 has no map of channels"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(
    name: str, arguments: dict[str, str], shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_backbone(name, arguments, shape, wants_map=True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "name", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"]
)
def test_settings_cannot_make_timm_load_anything(name: str, tmp_path: Path) -> None:
    for value in (str(tmp_path / "evil.pth"), True):
        with pytest.raises(ConfigError, match=f"backbone_arguments: '{name}' is nothing that a network may be told"):
            build_backbone("test_resnet", {name: value}, (3, 64, 64), wants_map=True)


def test_code_that_cannot_be_followed_is_taken_whole(tmp_path: Path) -> None:
    """This network asks at run time for the size of its images."""
    module = build_backbone("test_vit", {}, (3, 64, 64), wants_map=False)
    assert not isinstance(module, fx.GraphModule)
    whole = saved("test_vit", tmp_path / "w.safetensors", img_size=64)
    load_backbone(module, tmp_path / "w.safetensors")
    torch.testing.assert_close(answer(module, images(64)), pooled(whole, images(64)))
    assert parameters(module) == parameters(whole) - parameters(whole.get_submodule("head"))
    assert feature_shape(module, (3, 64, 64)) == (64,)


# The zoo's.


@pytest.mark.parametrize("name", ["resnet20", "resnet56_cifar10"])
def test_zoo_backbones_are_the_zoos_networks(name: str) -> None:
    torch.manual_seed(3)
    module = build_backbone(name, None, (3, 32, 32), wants_map=False)
    torch.manual_seed(3)
    network = build_network(ModelConfig(name=ALIASES.get(name, name)), (3, 32, 32), 10)
    torch.testing.assert_close(answer(module, images(32)), answer(network.body, images(32)), rtol=1e-4, atol=1e-3)
    maps = build_backbone(name, None, (3, 32, 32), wants_map=True)
    maps.load_state_dict(module.state_dict())
    assert feature_shape(maps, (3, 32, 32)) == (64, 8, 8)
    torch.testing.assert_close(answer(maps, images(32)).mean((2, 3)), answer(module, images(32)), rtol=1e-4, atol=1e-3)


def test_the_zoo_and_timm_share_no_name() -> None:
    assert not {*zoo.names(), *ALIASES} & {*timm.list_models()}


# Weights.


def saved(name: str, path: Path, seed: int = 4, metadata: dict[str, str] | None = None, **arguments: Any) -> nn.Module:
    """A network of timm with its classifier, written to a file as the hub has it."""
    torch.manual_seed(seed)
    whole = timm.create_model(name, **arguments).eval()
    save_file(whole.state_dict(), path, metadata or {"format": "pt"})
    assert isinstance(whole, nn.Module)
    return whole


def test_a_file_with_a_classifier_loads(tmp_path: Path) -> None:
    whole = saved("mobilenetv3_small_050", tmp_path / "w.safetensors", num_classes=7)
    module = build_backbone("mobilenetv3_small_050", {}, (3, 64, 64), wants_map=True)
    load_backbone(module, tmp_path / "w.safetensors")
    with torch.no_grad():
        expected = whole.forward_features(images(64))  # type: ignore[operator]
    torch.testing.assert_close(answer(module, images(64)), expected)


def test_counts_of_training_steps_may_be_missing_and_a_cut_backbone_takes_its_part(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    whole = saved("test_resnet", path)
    save_file({key: value for key, value in load_file(path).items() if "num_batches" not in key}, path)
    module = cut_behind(build_backbone("test_resnet", {}, (3, 64, 64), wants_map=True), "layer2")
    load_backbone(module, path)
    assert torch.equal(module.get_parameter("layer1.0.conv1.weight"), whole.get_parameter("layer1.0.conv1.weight"))
    assert not any(key.startswith("layer3") for key in module.state_dict())


def test_every_mismatch_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved("test_resnet", path)
    tensors = load_file(path)
    tensors["layer1.0.conv9.weight"] = torch.ones(2)
    del tensors["bn1.running_mean"]
    tensors["bn1.bias"] = torch.ones(6)
    save_file(tensors, path)
    module = build_backbone("test_resnet", {}, (3, 64, 64), wants_map=True)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load_backbone(module, path)
    message = str(caught.value)
    assert "1 missing: bn1.running_mean;" in message
    assert "1 unexpected: layer1.0.conv9.weight;" in message
    assert "1 of another shape or type: bn1.bias (file (6,) float32, network (32,))" in message
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    saved("test_nfnet", tmp_path / "w.safetensors")
    for name in ("test_resnet", "resnet20", "test_vit"):
        module = build_backbone(name, {}, (3, 32, 32), wants_map=False)
        with pytest.raises(ConfigError, match=r"do not fit this network: .* missing: .* unexpected: "):
            load_backbone(module, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x02cposix\nsystem\n")
    with pytest.raises(RunError, match="not a safetensors file"):
        load_backbone(module, tmp_path / "w.safetensors")


def test_position_embeddings_are_resampled_as_timm_does(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved("test_vit", path)
    expected = timm.create_model(
        "test_vit", img_size=96, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ).eval()
    module = build_backbone("test_vit", {}, (3, 96, 96), wants_map=False)
    load_backbone(module, path)
    torch.testing.assert_close(answer(module, images(96)), pooled(expected, images(96)))


def test_torchvisions_names_for_vgg_are_understood(tmp_path: Path) -> None:
    """Its dense layers are called otherwise; here they are small, for they are left out."""
    torch.manual_seed(4)
    features = timm.create_model("vgg11", mlp_ratio=1 / 4096).get_submodule("features")
    tensors = {f"features.{key}": value for key, value in features.state_dict().items()}
    tensors |= {"classifier.0.weight": torch.ones(1, 25_088), "classifier.0.bias": torch.ones(1)}
    tensors |= {"classifier.6.weight": torch.ones(5, 1), "classifier.6.bias": torch.ones(5)}
    save_file(tensors, tmp_path / "w.safetensors")
    module = build_backbone("vgg11", {}, (3, 32, 32), wants_map=True)
    load_backbone(module, tmp_path / "w.safetensors")
    torch.testing.assert_close(answer(module, images(32)), answer(features, images(32)))


def test_an_auxiliary_classifier_is_ignored(tmp_path: Path) -> None:
    module = build_backbone("inception_v3", {}, (3, 80, 80), wants_map=True)
    tensors = dict(module.state_dict()) | {"AuxLogits.fc.weight": torch.ones(3, 3), "fc.bias": torch.ones(3)}
    save_file(tensors, tmp_path / "w.safetensors")
    load_backbone(module, tmp_path / "w.safetensors")


def test_a_finished_runs_weights(tmp_path: Path) -> None:
    """As written by save_weights: a network of the zoo, and one on a backbone."""
    torch.manual_seed(4)
    network = build_network(ModelConfig(name="resnet20"), (3, 32, 32), 4, torch.rand(3), torch.rand(3) + 0.1)
    save_weights(network, tmp_path / "w.safetensors")
    module = build_backbone("resnet20", {}, (3, 32, 32), wants_map=False)
    load_backbone(module, tmp_path / "w.safetensors")
    torch.testing.assert_close(answer(module, images(32)), answer(network.body, images(32)))
    source = read_source(tmp_path / "w.safetensors")
    assert source.mean == pytest.approx(network.mean.flatten().tolist())

    whole = saved("test_resnet", tmp_path / "hub.safetensors")
    own = {f"body.backbone.{key}": value for key, value in whole.state_dict().items() if not key.startswith("fc.")}
    save_file(own | {"body.dense1.weight": torch.ones(2), "mean": torch.ones(3)}, tmp_path / "own.safetensors")
    module = build_backbone("test_resnet", {}, (3, 64, 64), wants_map=True)
    load_backbone(module, tmp_path / "own.safetensors")
    assert torch.equal(module.get_parameter("conv1.0.weight"), whole.get_parameter("conv1.0.weight"))


@pytest.mark.data
def test_the_published_mobilenet_computes_what_timm_computes(
    shared_weights: Callable[[str], Path], shared_data: Callable[[str], Path]
) -> None:
    path = shared_weights("mobilenetv2_100_imagenet")
    source = read_source(path)
    assert source.architecture == "mobilenetv2_100"
    module = build_backbone(source.architecture, source.arguments, (3, 224, 224), wants_map=False)
    load_backbone(module, path)
    whole = timm.create_model("mobilenetv2_100", pad_type="same")
    whole.load_state_dict(load_file(path))
    files = sorted(shared_data("cats_dogs").rglob("*.jpg"))[::900]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((224, 224))) for file in files])
    standardised = (torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - source.mean[0]) / source.std[0]
    expected = pooled(whole.eval(), standardised)
    torch.testing.assert_close(answer(module, standardised), expected, rtol=1e-4, atol=1e-4)
    # What the file says of the constructor matters: without it the images are padded on the other sides.
    other = build_backbone(source.architecture, {}, (3, 224, 224), wants_map=False)
    load_backbone(other, path)
    assert (answer(other, standardised) - expected).abs().mean() > 0.05 * expected.abs().mean()


@pytest.mark.data
def test_the_published_cifar_network_classifies_through_its_backbone(
    shared_weights: Callable[[str], Path], shared_data: Callable[[str], Path]
) -> None:
    path = shared_weights("resnet20_cifar10")
    source = read_source(path)
    module = build_backbone("resnet20_cifar10", {}, (3, 32, 32), wants_map=False)
    load_backbone(module, path)
    folders = sorted(folder for folder in shared_data("cifar10_4k").iterdir() if folder.is_dir())
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())[:20]]
    pixels = torch.tensor(np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files]))
    mean, std = (torch.tensor(figures).view(3, 1, 1) for figures in (source.mean, source.std))
    features = answer(module, (pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    tensors = load_file(path)
    predicted = (features @ tensors["linear.weight"].T + tensors["linear.bias"]).argmax(1)
    assert (predicted == torch.tensor([label for _, label in files])).float().mean() >= 0.97
