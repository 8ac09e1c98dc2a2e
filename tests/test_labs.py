"""The labs: files that load, networks with exactly the parameters of the originals, a page for each file."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tintype.config import RunConfig
from tintype.models import zoo
from tintype.models.build import build_network
from tintype.models.pretrained import timm_config, zoo_name
from tintype.models.summary import summarize
from tintype.report.studyfile import STUDY_KINDS
from tintype.studies.file import load_study
from tintype.studies.plan import Study
from tintype.tuning.ownspace import load_space

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = sorted(path.stem for path in (ROOT / "labs").glob("*-tune.toml"))
STUDIES = sorted({path.stem for path in (ROOT / "labs").glob("*.toml")} - set(SEARCHES))
PAGES = sorted((ROOT / "docs" / "labs").glob("*.md"))
_NAMED = re.compile(r"labs/([\w-]+\.(?:toml|py))")


def study_of(name: str, quick: bool = False) -> Study:
    return load_study(ROOT / "labs" / f"{name}.toml", source="data", quick=quick)


def config_of(name: str, label: str) -> RunConfig:
    study = study_of(name)
    return next(study.config_of(point, 0) for point in study.points() if point.label == label)


def work_of(study: Study) -> float:
    """Something that grows with how long a study takes: runs, epochs, images, views and pixels."""
    work = 0.0
    for request in study.requests():
        fit, data = request.config.fit, request.config.data
        images = (data.train_images or 10**5) * data.fraction
        if fit.steps_per_epoch:
            images = min(images, fit.steps_per_epoch * (fit.batch_size or 1))
        work += (fit.epochs or 1) * images * (fit.views or 1) * (data.image_size or 1) ** 2
    return work


@pytest.mark.parametrize("name", STUDIES)
def test_every_lab_is_a_study_with_a_smaller_form(name: str) -> None:
    full, quick = study_of(name), study_of(name, quick=True)
    for study in (full, quick):
        assert len(study.requests()) == len(study.points()) * len(study.seeds)
        assert study.kind in STUDY_KINDS
    assert work_of(quick) <= work_of(full) / 2
    assert len(quick.seeds) <= 2


@pytest.mark.parametrize("name", STUDIES)
def test_every_lab_names_networks_that_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    for request in study_of(name).requests():
        model = request.config.model
        assert [model.name, model.layers, model.backbone].count(None) == 2, request.name
        if model.backbone is not None:
            assert zoo_name(model.backbone) or timm_config(model.backbone)
        elif model.name is not None and ":" in model.name:
            module, _, function = model.name.partition(":")
            assert callable(getattr(importlib.import_module(module), function))
        elif model.name is not None:
            assert zoo.find(model.name).layers


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_has_a_space_and_a_budget(name: str) -> None:
    file = load_space(ROOT / "labs" / f"{name}.toml")
    assert file.space.architectures or file.space.parameters
    assert file.budget
    assert RunConfig().replace(file.base).data.image_size


# Counts of the originals, in Keras and PyTorch; those of 20 classes follow from the last layer alone.
@pytest.mark.parametrize(
    ("name", "label", "classes", "total", "trainable"),
    [
        ("cats-dogs", "sample, 150 px", 2, 1_212_513, 1_212_513),
        ("cats-dogs", "large, 180 px", 2, 13_300_033, 13_300_033 - 384),
        ("xray-vgg16", "ten steps an epoch", 2, 21_139_777, 6_424_065),
        ("xray-vgg16", "all images in each epoch", 2, 21_139_777, 6_424_065),
        ("xray-networks", "vgg16", 4, 21_140_548, 6_424_836),
        ("xray-devices", "VGG16, two classes, cpu", 2, 21_139_777, 6_424_065),
        ("tiny-imagenet-networks", "small network", 200, 123_160, 123_160 - 576),
        ("tiny-imagenet-networks", "small network", 20, 123_160 - 180 * 65, 123_160 - 576 - 180 * 65),
        ("tiny-imagenet-networks", "AlexNet, learning rate 1e-4", 200, 22_370_760, 22_370_760 - 1_216),
        ("tiny-imagenet-networks", "AlexNet, learning rate 1e-4", 20, 21_633_300, 21_633_300 - 1_216),
        ("mnist-mlp", "one hidden layer", 10, 101_770, 101_770),
        ("mnist-mlp", "two hidden layers", 10, 118_282, 118_282),
        ("mnist-tutorial", "as it was", 10, 1_199_882, 1_199_882),
        ("mnist-learning-curve", "train_images 60000", 10, 29_034 + 96, 29_034),
    ],
)
def test_a_labs_network_has_exactly_the_originals_parameters(
    name: str, label: str, classes: int, total: int, trainable: int
) -> None:
    config = config_of(name, label)
    assert config.data.image_size is not None
    channels = 3 if config.data.color == "rgb" else 1
    with torch.device("meta"):  # counts need no values, and VGG16 has many
        network = build_network(config.model, (channels, config.data.image_size, config.data.image_size), classes)
    summary = summarize(network)
    assert (summary.total_parameters, summary.trainable_parameters) == (total, trainable)


def test_the_frozen_backbone_of_the_lab_has_its_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function plants what its name says, on the same weights and nothing else."""
    monkeypatch.syspath_prepend(str(ROOT))
    lab: Any = importlib.import_module("labs.frozen_backbone")
    monkeypatch.setattr(lab, "find_weights", lambda *_: lab_weights)
    monkeypatch.setattr(lab, "load_backbone", lambda *_: None)

    class lab_weights:  # noqa: N801
        path, mean, std = Path("none"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answers: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for plant in ("sound", "wrong_scale", "batch_statistics", "batch_statistics_and_wrong_scale"):
        torch.manual_seed(0)
        network: nn.Module = getattr(lab, plant)((3, 32, 32), 5)
        first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        with torch.no_grad():
            answers[plant] = network.train()(images), network.eval()(images)
        changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, first[name])]
        assert all("num_batches_tracked" in name for name in changed), "what is frozen keeps its statistics"
        assert {name.split(".")[0] for name, value in network.named_parameters() if value.requires_grad} == {"head"}

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).norm() / other.norm())

    in_training = {plant: pair[0] for plant, pair in answers.items()}
    in_evaluation = {plant: pair[1] for plant, pair in answers.items()}
    both = "batch_statistics_and_wrong_scale"
    assert apart(in_training["sound"], in_evaluation["sound"]) < 1e-4
    assert apart(in_training["wrong_scale"], in_evaluation["wrong_scale"]) < 1e-4
    assert apart(in_evaluation["batch_statistics"], in_evaluation["sound"]) < 1e-4
    assert apart(in_training["batch_statistics"], in_evaluation["batch_statistics"]) > 0.1
    assert apart(in_evaluation["wrong_scale"], in_evaluation["sound"]) > 1
    # The statistics of a batch fit every scale: with them the wrong one hardly shows in training (at padded borders).
    assert apart(in_training[both], in_training["batch_statistics"]) < 0.2
    assert apart(in_evaluation[both], in_training[both]) > 1


def test_every_file_stands_on_a_page_and_in_the_table() -> None:
    assert len(PAGES) == 5
    files = {f"{name}.toml" for name in (*STUDIES, *SEARCHES)}
    on_pages = {name for page in PAGES for name in _NAMED.findall(page.read_text(encoding="utf-8"))}
    assert files <= on_pages
    readme = (ROOT / "labs" / "README.md").read_text(encoding="utf-8")
    assert files <= set(re.findall(r"`([\w-]+\.toml)`", readme))
    assert {page.name for page in PAGES} <= set(re.findall(r"docs/labs/([\w-]+\.md)", readme))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "labs" / "README.md"], ids=lambda page: page.name)
def test_pages_name_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in _NAMED.findall(text):
        assert (ROOT / "labs" / name).is_file(), name
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("name", [*STUDIES, *SEARCHES])
def test_every_lab_says_what_it_is(name: str) -> None:
    head = (ROOT / "labs" / f"{name}.toml").read_text(encoding="utf-8").partition("\nname = ")[0]
    assert head.startswith("# ")
    assert all(line.startswith("#") for line in head.splitlines())
