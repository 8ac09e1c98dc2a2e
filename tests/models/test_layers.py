"""Building: shapes and values against Keras' definitions, weights, and errors that point at the line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.errors import LayerError
from tintype.models.grammar import ACTIVATIONS
from tintype.models.layers import Shape, build_layers, l2_factors, output_shape, parse_layers, require_vector


def build(text: str, shape: Shape) -> nn.Sequential:
    torch.manual_seed(0)
    return build_layers(parse_layers(text), shape)


def names(body: nn.Sequential) -> list[str]:
    return [name for name, _ in body.named_children()]


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def keras_windows(size: int, kernel: int, stride: int, pad: str) -> list[range]:
    """Where each window lies along one axis; TensorFlow's documentation of SAME and VALID."""
    if pad == "valid":
        return [range(start, start + kernel) for start in range(0, size - kernel + 1, stride)]
    total = max(kernel - (size % stride or stride), 0)
    first = -(total // 2)
    return [range(first + i * stride, first + i * stride + kernel) for i in range(math.ceil(size / stride))]


def keras_layer(kind: str, x: NDArray[np.float32], kernel: int, stride: int, pad: str) -> NDArray[np.float64]:
    """Max pool, average pool or a convolution with ones, window by window."""
    rows = keras_windows(x.shape[0], kernel, stride, pad)
    columns = keras_windows(x.shape[1], kernel, stride, pad)
    result = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = x[max(row.start, 0) : row.stop, max(column.start, 0) : column.stop]
            result[i, j] = {"pool": window.max(), "avgpool": window.mean(), "conv": window.sum()}[kind]
    return result


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["pool", "avgpool", "conv"]),
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 5),
    pad=st.sampled_from(["same", "valid"]),
)
def test_windows_lie_where_keras_lays_them(
    kind: str, size: tuple[int, int], kernel: int, stride: int, pad: str
) -> None:
    if pad == "valid" and kernel > min(size):
        return
    # All negative, so that zero padding would show in a maximum.
    x = images(1, 1, *size) - 10
    text = (
        f"{kind} {kernel} stride={stride} pad={pad}" if kind != "conv" else f"conv 1 {kernel} stride={stride} pad={pad}"
    )
    body = build(text, (1, *size))
    for module in body:
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    with torch.no_grad():
        result = body(x)
    expected = keras_layer(kind, x[0, 0].numpy(), kernel, stride, pad)
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-4, atol=1e-4)
    assert output_shape(parse_layers(text), (1, *size)) == (1, *expected.shape)


def test_padding_is_native_where_pytorch_has_it() -> None:
    """Of the zoo's cats_dogs: odd sizes are padded on both sides, even ones have a partial last window."""
    assert names(build("conv 8 5\npool 3 stride=2", (3, 180, 180))) == ["conv1", "pool1"]
    assert names(build("conv 8 3 stride=2", (3, 181, 181))) == ["conv1"]
    assert names(build("conv 8 3 stride=2", (3, 180, 180))) == ["conv1_pad", "conv1"]


def test_activation_goes_behind_the_max_pool_and_nothing_else_changes() -> None:
    text = "conv 6 3 relu\npool 2\nconv 5 3 tanh\ngmp"
    body = build(text, (3, 9, 9))
    assert names(body) == ["conv1", "pool1", "relu1", "conv2", "gmp1", "tanh1"]
    x = images(2, 3, 9, 9)
    conv1, conv2 = body.get_submodule("conv1"), body.get_submodule("conv2")
    first = nn.functional.max_pool2d(conv1(x).relu(), 2, ceil_mode=True)
    torch.testing.assert_close(body(x), conv2(first).tanh().amax((2, 3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv 4 3 gelu\npool 2", ["conv1", "gelu1", "pool1"]),
        ("conv 4 3 silu\npool 2", ["conv1", "silu1", "pool1"]),
        ("conv 4 3 relu\navgpool 2", ["conv1", "relu1", "avgpool1"]),
        ("conv 4 3 relu\nbn\npool 2", ["conv1", "relu1", "bn1", "pool1"]),
        ("bn\nrelu\npool 2\npool 2", ["bn1", "pool1", "pool2", "relu1"]),
    ],
)
def test_only_what_commutes_changes_places(text: str, expected: list[str]) -> None:
    assert names(build(text, (3, 12, 12))) == expected


MAP_LINES = ["conv 4 3", "pool 2", "avgpool 2", "bn", "dropout 0.5", "standardize", "residual 4", *ACTIVATIONS]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first", MAP_LINES)
def test_a_relu_may_follow_any_layer(first: str, training: bool) -> None:
    """A ReLU in place must not overwrite what a layer before it needs for its gradient."""
    for between in ("", "dropout 0\n", "dropout 0.5\n"):
        body = build(f"conv 4 3\n{first}\n{between}relu\ngap", (3, 8, 8)).train(training)
        body(images(2, 3, 8, 8)).sum().backward()
        assert all(parameter.grad is not None for parameter in body.parameters())


def test_shapes_of_every_kind_match_what_the_modules_make() -> None:
    text = """standardize
        conv 8 5 stride=2 pad=valid leaky_relu
        avgpool 2 stride=1
        residual 12 stride=2 repeat=2
        residual 16 stride=2 shortcut=pad
        bn
        elu
        dropout 0.2
        flatten
        dense 7 selu bias=no
        bn
        sigmoid"""
    lines = text.split("\n")
    for count in range(1, len(lines) + 1):
        part = "\n".join(lines[:count])
        made = build(part, (3, 33, 29)).eval()(images(2, 3, 33, 29))
        assert output_shape(parse_layers(part), (3, 33, 29)) == tuple(made.shape[1:])


def test_output_shape_allocates_nothing() -> None:
    specs = parse_layers("flatten\ndense 100000")
    assert output_shape(specs, (3, 80, 80)) == (100_000,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "conv 64 3\ndense 10",
            "layers, line 2: `dense 10`: dense needs a vector, but it gets a map of 64 channels of 8x8 pixels; "
            "put `flatten` or `gap` before it.",
        ),
        ("pool 4\npool 3 pad=valid", "line 2: `pool 3 pad=valid`: the window of 3x3 is larger than the map it gets"),
        ("\nconv 4 9 pad=valid", "line 2: `conv 4 9 pad=valid`: the window of 9x9 is larger than the map"),
        ("gap\nconv 4 3", "line 2: `conv 4 3`: conv needs a map, but it gets a vector of 3 values; put it before"),
        ("gap\nflatten", "flatten gets a vector of 3 values already; leave the line out."),
        ("gap\ngmp", "gmp needs a map"),
        ("gap\nresidual 4", "residual needs a map"),
        ("gap\nstandardize", "standardize needs a map"),
        ("residual 2 shortcut=pad", "shortcut=pad cannot drop channels, and 3 come in; take at least 3 filters."),
        (
            "conv 60000 1\nflatten\ndense 1000000",
            "the layer would have 3,840,000,000,000 weights, as it gets a vector of",
        ),
        ("residual 4096 repeat=200", "the layer would have 60,247,093,248 weights, as it gets a map of 3 channels"),
        ("conv 65536 255 pad=same", "the layer would have 12,784,435,200 weights"),
    ],
)
def test_errors_point_at_the_line(text: str, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        build_layers(parse_layers(text), (3, 8, 8))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(nn, "Linear", fail)
    with pytest.raises(LayerError, match=r"line 2: `dense 5`: there is not enough memory .* a vector of 192 values\.$"):
        build("flatten\ndense 5", (3, 8, 8))


def test_a_network_must_end_in_a_vector() -> None:
    with pytest.raises(LayerError, match=r"ends in a map of 4 channels of 8x8 pixels.*end it with `gap` or `flatten`"):
        require_vector(parse_layers("conv 4 3"), (3, 8, 8))
    assert require_vector(parse_layers("conv 4 3\ngap"), (3, 8, 8)) == 4


def test_weights_are_glorot_uniform_with_zero_bias() -> None:
    body = build("conv 64 5\nflatten\ndense 300", (32, 6, 6))
    for name, fans in (("conv1", 25 * (32 + 64)), ("dense1", 64 * 36 + 300)):
        weight, bias = body.get_parameter(f"{name}.weight"), body.get_parameter(f"{name}.bias")
        limit = math.sqrt(6 / fans)
        assert 0.99 * limit < weight.abs().max().item() <= limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
        assert bias.abs().max().item() == 0


def test_residual_convolutions_are_he_normal() -> None:
    weight = build("residual 64", (32, 6, 6)).get_parameter("residual1.0.conv2.weight")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


def test_weights_depend_on_the_seed_alone() -> None:
    specs = parse_layers("conv 4 3\nresidual 8 stride=2\ngap\ndense 5")
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_layers(specs, (3, 8, 8)).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_l2_names_the_weights_that_carry_it() -> None:
    text = "conv 4 3 relu l2=0.5\npool 2\nconv 4 3\nflatten\ndense 3 relu\ndense 2 l2=0.25"
    factors = l2_factors(parse_layers(text))
    assert factors == {"conv1.weight": 0.5, "dense2.weight": 0.25}
    assert all(name in dict(build(text, (3, 8, 8)).named_parameters()) for name in factors)


def test_bias_can_be_left_out() -> None:
    body = build("conv 4 3 bias=no\ngap\ndense 2 bias=no", (3, 8, 8))
    assert sorted(name for name, _ in body.named_parameters()) == ["conv1.weight", "dense1.weight"]
