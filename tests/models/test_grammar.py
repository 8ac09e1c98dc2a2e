"""The layer language: what reads, what does not, and that printing and reading are inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.errors import LayerError
from tintype.models.grammar import ACTIVATIONS, KINDS, LayerSpec, format_layers, parse_layers


def test_settings_and_defaults() -> None:
    specs = parse_layers("conv 64 5 stride=2 relu l2=1e-4\npool 3\npool 3 stride=2 pad=valid\ndense 10\n")
    assert [dict(spec.settings) for spec in specs] == [
        {"filters": 64, "kernel": 5, "stride": 2, "pad": "same", "bias": "yes", "l2": 1e-4, "activation": "relu"},
        {"kernel": 3, "stride": 3, "pad": "same"},
        {"kernel": 3, "stride": 2, "pad": "valid"},
        {"units": 10, "bias": "yes", "l2": 0.0, "activation": ""},
    ]


def test_comments_blank_lines_and_windows_line_ends_mean_nothing() -> None:
    text = "# a network\r\n\r\n  conv 8 3 relu  # first\r\n\tgap\r\n"
    specs = parse_layers(text)
    assert specs == parse_layers("conv 8 3 relu\ngap")
    assert [spec.line for spec in specs] == [3, 4]


def test_order_of_activation_and_settings_is_free() -> None:
    assert parse_layers("conv 8 3 relu stride=2") == parse_layers("conv stride=2 8 relu 3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bn\n\nconv 64", "layers, line 3: `conv 64`: conv needs filters and kernel size, such as `conv 64 3 relu`."),
        ("dense", "layers, line 1: `dense`: dense needs the number of units, such as `dense 128 relu`."),
        ("covn 64 3", "layers, line 1: `covn 64 3`: there is no layer 'covn'. Did you mean `conv`?"),
        ("MaxPool2D 2", "layers, line 1: `MaxPool2D 2`: there is no layer 'MaxPool2D'. It is called `pool`."),
        ("BatchNormalization", "`BatchNormalization`: there is no layer 'BatchNormalization'. It is called `bn`."),
        ("dense 10 softmax", "`softmax` does not belong here. Leave it out: the output layer is added"),
        ("conv 64 3 rleu", "there is no activation 'rleu'. There are: relu, tanh, sigmoid"),
        ("pool 2 relu", "pool takes no activation; write `relu` on a line of its own."),
        ("conv 64 3 5", "conv takes 2 numbers, such as `conv 64 3 relu`; 5 is one too many."),
        ("gap 3", "gap takes 0 numbers, such as `gap`; 3 is one too many."),
        ("conv 64 3 strides=2", "conv has no setting 'strides'. conv has stride=, pad=, bias=, l2=."),
        ("gap x=1", "gap has no setting 'x'. It is written `gap`."),
        ("conv 64 3 stride=2 stride=3", "stride is given twice."),
        ("conv 64 3 relu tanh", "activation is given twice."),
        ("conv 64 3 pad=full", "pad must be same or valid. Got 'full'."),
        ("conv 0 3", "filters must be a whole number from 1 to 65536. Got '0'."),
        ("conv 64 2.5", "kernel must be a whole number from 1 to 255. Got '2.5'."),
        ("conv -3 3", "filters must be a whole number from 1 to 65536. Got '-3'."),
        ("dropout 1", "share must be a number from 0 to below 1. Got '1'."),
        ("dropout nan", "dropout does not take 'nan'. It is written `dropout 0.5`."),
        ("dense 8 l2=inf", "l2 must be a number of at least 0. Got 'inf'."),
        ("dense 8 l2=1e999", "l2 must be a number of at least 0. Got '1e999'."),
        ("residual 64 shortcut=none", "shortcut must be conv or pad. Got 'none'."),
        ("conv ６４ 3", "filters must be a whole number from 1 to 65536. Got '６４'."),
        ("", "layers: the text holds no layer; write one a line, such as `conv 32 3 relu`."),
        ("bn\n" * 1001, "layers: the text has 1002 lines; a network may have 1000."),
    ],
)
def test_errors_name_the_line_the_fact_and_the_remedy(text: str, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        parse_layers(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


words = st.sampled_from(
    [*KINDS, "3", "64", "0.5", "stride=2", "pad=valid", "pad=", "=", "l2=.1", "-1", "repeat=2", "#"]
)


@given(st.one_of(st.text(), st.lists(st.lists(words).map(" ".join)).map("\n".join)))
def test_any_text_parses_or_is_a_layer_error_of_one_line(text: str) -> None:
    message = ""
    try:
        specs = parse_layers(text)
    except LayerError as error:
        message = str(error)
    else:
        assert parse_layers(format_layers(specs)) == specs
    assert message == "" or message.isprintable()
    assert len(message) < 400


def options(**choices: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    """Any subset of ``name=value`` words."""
    chosen = st.fixed_dictionaries({}, optional=choices)
    return chosen.map(lambda given: "".join(f" {name}={value}" for name, value in given.items()))


pads = st.sampled_from(["same", "valid"])
strides = st.integers(1, 255)
penalties = st.floats(0, 1e30)
biases = st.sampled_from(["yes", "no"])
activations = st.sampled_from(["", *(f" {name}" for name in ACTIVATIONS)])
filters = st.integers(1, 65_536)
lines = st.one_of(
    st.tuples(
        filters, st.integers(1, 255), options(stride=strides, pad=pads, l2=penalties, bias=biases), activations
    ).map(lambda parts: "conv {} {}{}{}".format(*parts)),
    st.tuples(st.sampled_from(["pool", "avgpool"]), st.integers(1, 255), options(stride=strides, pad=pads)).map(
        lambda parts: "{} {}{}".format(*parts)
    ),
    st.tuples(st.integers(1, 10**6), options(l2=penalties, bias=biases), activations).map(
        lambda parts: "dense {}{}{}".format(*parts)
    ),
    st.tuples(
        filters, options(stride=strides, repeat=st.integers(1, 200), shortcut=st.sampled_from(["conv", "pad"]))
    ).map(lambda parts: "residual {}{}".format(*parts)),
    st.floats(0, 1, exclude_max=True).map("dropout {}".format),
    st.sampled_from(["gap", "gmp", "bn", "flatten", "standardize", *ACTIVATIONS]),
)


@given(st.lists(lines, min_size=1))
def test_printing_and_reading_again_is_the_identity(texts: list[str]) -> None:
    specs = parse_layers("\n".join(texts))
    printed = format_layers(specs)
    assert len(specs) == len(texts)
    assert parse_layers(printed) == specs
    assert format_layers(parse_layers(printed)) == printed


def test_printing_leaves_defaults_out() -> None:
    text = "conv 64 3 stride=1 pad=same bias=yes l2=0 relu\npool 2 stride=2\nresidual 8 repeat=1 shortcut=conv\n"
    assert format_layers(parse_layers(text)) == "conv 64 3 relu\npool 2\nresidual 8\n"


def test_line_and_text_are_not_part_of_equality() -> None:
    assert LayerSpec("bn", line=1, text="bn") == LayerSpec("bn", line=7, text=" bn")
