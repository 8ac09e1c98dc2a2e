"""What a point does differently, in words."""

from __future__ import annotations

import pytest

from tintype.config import RunConfig
from tintype.studies.changes import describe_changes
from tintype.studies.plan import Axis, Study

LAYERS = "conv 32 3 relu\nconv 64 3 relu\npool 2\ndropout 0.25\nflatten\ndense 128 relu\n"


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (LAYERS, ""),
        (LAYERS.replace("64 3", "64 5"), "conv 64 5 relu instead of conv 64 3 relu"),
        (LAYERS.replace("conv 64 3 relu\n", "conv 64 3 relu\nbn\n"), "with bn"),
        (LAYERS.replace("dropout 0.25\n", ""), "without dropout 0.25"),
        (LAYERS.replace("relu\n", "relu\nbn\n"), "with bn (3 times)"),
        (LAYERS.replace("\n", " ;  ") + "# the same", "layers written otherwise"),
    ],
)
def test_layers_are_told_line_by_line(now: str, words: str) -> None:
    assert describe_changes({"model.layers": LAYERS}, {"model.layers": now}) == words


def test_settings_are_told_with_both_values() -> None:
    then = {"fit.epochs": 10, "fit.learning_rate": 1e-3, "data.fraction": 1.0}
    now = {"fit.epochs": 5, "fit.learning_rate": 1e-3, "data.fraction": None}
    assert describe_changes(then, now) == "epochs 5 instead of 10; fraction what the data suggest instead of 1"
    named = {"model.head": ("plain", "wide")}
    assert describe_changes({"model.head": None}, {"model.head": "gap"}, named) == "head wide instead of plain"


def test_another_network_is_one_change() -> None:
    then, now = {"model.layers": "gap", "model.backbone": None}, {"model.layers": None, "model.backbone": "vgg16"}
    assert describe_changes(then, now) == "backbone vgg16 instead of layers gap"


def test_named_networks_are_told_by_their_layers() -> None:
    def told(name: str) -> str:
        return describe_changes({"model.name": "mnist_ablation"}, {"model.name": name})

    assert told("mnist_ablation_bn") == "with bn (3 times)"
    assert told("mnist_ablation_dense64") == "dense 64 relu instead of dense 128 relu"
    assert "with bn (3 times)" in told("mnist_ablation_bn_kernel5_conv128")
    assert told("mine:network") == "name mine:network instead of mnist_ablation"
    assert told("resnet20") == "name resnet20 instead of mnist_ablation"
    text = describe_changes({"model.name": "mnist_ablation"}, {"model.layers": "gap"})
    assert text == "layers gap instead of name mnist_ablation"


def test_long_lists_are_cut() -> None:
    then, now = ({f"fit.s{number}": value for number in range(7)} for value in (1, 2))
    assert describe_changes(then, now).endswith("; and 3 more")


def test_variants_are_compared_with_the_base_where_they_set_nothing() -> None:
    base = RunConfig().replace({"data.source": "/data", "model.layers": LAYERS, "fit.epochs": 3})
    variants: tuple[tuple[str, dict[str, object]], ...] = (
        ("base", {}),
        ("no dropout", {"model.layers": LAYERS.replace("dropout 0.25\n", "")}),
        ("long, from elsewhere", {"fit.epochs": 9, "model.backbone": "vgg16"}),
    )
    study = Study("s", "ablation", base, (Axis("variant", "variant", variants),), (0,))
    told = [study.changes_of(point) for point in study.points()]
    assert told[:2] == ["", "without dropout 0.25"]
    assert "epochs 9 instead of 3" in told[2]
    assert "backbone vgg16 instead of layers conv 32 3 relu" in told[2]
    other = Study("s", "ablation", base, study.axes, (0,), reference_name="no dropout")
    assert other.changes_of(other.points()[0]) == "with dropout 0.25"
    # A network named in another way takes the place of the base's.
    config = study.requests()[-1].config
    assert (config.model.backbone, config.model.layers, config.fit.epochs) == ("vgg16", None, 9)
