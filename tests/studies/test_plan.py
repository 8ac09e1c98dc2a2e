"""Study files: what they turn into, and what they refuse."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.studies.plan import Axis, Study, load_study, slug

LABS = Path(__file__).resolve().parents[2] / "labs"


def load(tmp_path: Path, text: str, **options: object) -> Study:
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    return load_study(file, **{"source": "data", **options})  # type: ignore[arg-type]


def test_a_grid_is_every_combination_with_every_seed_one_seed_first(tmp_path: Path) -> None:
    study = load(
        tmp_path,
        """
        name = "grid"
        seeds = [5, 2]
        [base]
        fit.epochs = 4
        "fit.batch_size" = 8
        [axes]
        model.depth = [0, "all"]
        "fit.learning_rate" = [0.1, 1e-5]
        """,
    )
    assert study.kind == "grid"
    labels = [point.label for point in study.points()]
    assert labels == [
        "depth 0, learning_rate 0.1", "depth 0, learning_rate 1e-05",
        "depth all, learning_rate 0.1", "depth all, learning_rate 1e-05",
    ]  # fmt: skip
    requests = study.requests()
    assert [request.seed for request in requests] == [5] * 4 + [2] * 4
    assert [request.point for request in requests] == labels * 2
    last = requests[-1]
    assert last.name == "depth=all,learning_rate=1e-05,seed=2"
    assert (last.config.model.depth, last.config.fit.learning_rate, last.config.seed) == ("all", 1e-5, 2)
    assert (last.config.fit.epochs, last.config.fit.batch_size) == (4, 8)
    assert last.config.data.source == str(Path.cwd() / "data")


def test_values_may_have_names(tmp_path: Path) -> None:
    text = 'name = "x"\nkind = "models"\n[axes."model.layers"]\nsmall = "gap"\nlarge = """\nconv 8 3\ngap\n"""\n'
    study = load(tmp_path, text)
    assert [point.label for point in study.points()] == ["small", "large"]
    assert [point.folder for point in study.points()] == ["layers=small", "layers=large"]
    assert study.points()[1].settings == {"model.layers": "conv 8 3\ngap\n"}


def test_axes_of_the_same_ending_keep_their_whole_names(tmp_path: Path) -> None:
    study = load(tmp_path, 'name = "x"\n[axes]\n"fit.epochs" = [1]\n"fit.layer_decay" = [0.5]\n')
    assert [axis.label for axis in study.axes] == ["epochs", "layer_decay"]
    study = load(tmp_path, 'name = "x"\n[axes]\n"fit.weight_decay" = [0.1]\n"heads.weight_decay" = {one = [0.1]}\n')
    assert [axis.label for axis in study.axes] == ["fit.weight_decay", "heads.weight_decay"]


QUICK = 'name = "x"\nseeds = 4\n[base]\nfit.epochs = 9\n[axes]\n"fit.learning_rate" = [1, 2]\n[quick]\nseeds = 1\n'


def test_quick_then_the_command_line_win_over_the_file(tmp_path: Path) -> None:
    text = f"{QUICK}fit.epochs = 2\ndata.fraction = 0.1\n"
    plain, quick = load(tmp_path, text), load(tmp_path, text, quick=True)
    assert (plain.seeds, plain.base.fit.epochs, plain.base.data.fraction) == ((0, 1, 2, 3), 9, 1.0)
    assert (quick.seeds, quick.base.fit.epochs, quick.base.data.fraction) == ((0,), 2, 0.1)
    told = load(tmp_path, text, quick=True, settings={"fit.epochs": 3})
    assert told.base.fit.epochs == 3
    with_source = load(tmp_path, text.replace("[base]", '[base]\ndata.source = "there"'), source=None)
    assert with_source.base.data.source == str(Path.cwd() / "there")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[axes]\n"fit.epochs" = [1]', "a study needs name"),
        ('name = "x"', "a study needs axes"),
        ('name = " "\n[axes]\n"fit.epochs" = [1]', "a study needs a name"),
        ('name = "x"\n[axes]', "a study needs an axis"),
        ('name = "x"\n[axes]\n"fit.epochs" = 3', r"takes a list of values, or a table of named ones\. Got 3"),
        ('name = "x"\n[axes]\n"fit.epochs" = []', r"fit\.epochs has no values"),
        ('name = "x"\n[axes]\n"fit.epochs" = [1, 2, 1]', r"fit\.epochs holds 1 twice"),
        ('name = "x"\n[axes]\n"fit.epochz" = [1]', r"no setting 'fit\.epochz'"),
        ('name = "x"\n[axes]\n"fit.epochs" = [0]', r"fit\.epochs: .*Got 0"),
        ('name = "x"\n[axes]\n"model.layers" = ["gap\\nbn"]', "need names"),
        ('name = "x"\n[axes]\n"seed" = [1]', "stand in `seeds`"),
        ('name = "x"\nseeds = 0\n[axes]\n"fit.epochs" = [1]', r"seeds takes a number.*Got 0"),
        ('name = "x"\nseeds = [1, 1]\n[axes]\n"fit.epochs" = [1]', "a seed twice"),
        ('name = "x"\nseeds = [-1]\n[axes]\n"fit.epochs" = [1]', r"Got \[-1\]"),
        ('name = "x"\nseeds = "3"\n[axes]\n"fit.epochs" = [1]', "seeds: "),
        ('name = "x"\nkind = "dept"\n[axes]\n"fit.epochs" = [1]', "kind must be one of depth, models, grid"),
        ('name = "x"\nkind = "depth"\n[axes]\n"fit.epochs" = [1]', r'needs the axis "model\.depth"'),
        ('name = "x"\nsteps = 3\n[axes]\n"fit.epochs" = [1]', r"no steps in a study.*under \[base\]"),
        ('name = "x"\n[base]\nfit.epochs = 2\n[axes]\n"fit.epochs" = [1]', r"fit\.epochs is an axis"),
        ('name = "x"\n[axes]\n"fit.epochs = [1]', "is not TOML"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "study.toml") in str(caught.value)


def test_a_missing_file_and_missing_data_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the study"):
        load_study(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="no data is named: give --data DIR"):
        load(tmp_path, 'name = "x"\n[axes]\n"fit.epochs" = [1]', source=None)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=200), st.integers(1, 9), min_size=1
    )
)
def test_a_study_reads_back_from_its_copy_and_its_folders_are_apart(values: dict[str, int]) -> None:
    axis = Axis("fit.epochs", "epochs", tuple(values.items()))
    config = RunConfig().replace({"data.source": str(Path.cwd()), "model.depth": "all"})
    study = Study("any", "grid", config, (axis,), (3, 1))
    names = [request.name for request in study.requests()]
    assert len(set(names)) == len(names)
    allowed = set(string.ascii_letters + string.digits + "_.,=+-")
    assert all(len(name) < 200 and (set(name) <= allowed or name.replace("_", "a")) for name in names)
    assert not any(set(name) & set('/\\:*?"<>|\x00') for name in names)
    import tomllib

    tree = tomllib.loads(study.to_toml())
    assert tree["axes"]["fit.epochs"] == values
    assert tree["base"] == {"data": {"source": str(Path.cwd())}, "model": {"depth": "all"}}


@pytest.mark.parametrize(
    ("name", "folder"), [("Fine-tuning: how deep?", "Fine-tuning-how-deep"), ("../..", "study"), ("猫", "猫")]
)
def test_a_studys_name_becomes_a_folders(name: str, folder: str) -> None:
    assert slug(name) == folder


@pytest.mark.parametrize("name", ["tiny-imagenet-depth", "xray-networks"])
@pytest.mark.parametrize("quick", [False, True])
def test_the_labs_studies_are_sound(name: str, quick: bool) -> None:
    study = load_study(LABS / f"{name}.toml", source="data", quick=quick)
    assert len(study.requests()) == len(study.points()) * len(study.seeds)


def test_the_depth_lab_is_that_of_the_original() -> None:
    study = load_study(LABS / "tiny-imagenet-depth.toml", source="data")
    assert [point.settings["model.depth"] for point in study.points()] == [0, 1, 3, 7, 13, "all"]
    assert (study.kind, len(study.seeds)) == ("depth", 3)
    base = study.base
    assert (base.model.backbone, base.data.image_size, base.fit.epochs) == ("resnet20_cifar10", 32, 15)
    assert base.fit.backbone_rate is not None
    assert base.fit.backbone_rate < 1
