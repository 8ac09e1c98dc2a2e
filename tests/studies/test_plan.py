"""Study files: what they turn into, and what they refuse."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.studies.file import load_study
from tintype.studies.plan import Axis, Study, slug

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


VARIANTS = """
name = "x"
kind = "ablation"
seeds = 2
reference = "wide"
[base]
model.layers = "gap"
fit.epochs = 3
[[variants]]
name = "as it was"
[[variants]]
name = "wide"
model.layers = '''
conv 8 3
gap
'''
[[variants]]
name = "long & fast"
"fit.epochs" = 9
fit.learning_rate = 0.1
"""


def test_variants_are_the_base_with_settings_of_their_own(tmp_path: Path) -> None:
    study = load(tmp_path, VARIANTS)
    assert [point.label for point in study.points()] == ["as it was", "wide", "long & fast"]
    assert study.reference.label == "wide"
    first = {request.point: request.config for request in study.requests()[:3]}
    assert next(iter(first)) == "wide"
    assert [first[point.label].fit.epochs for point in study.points()] == [3, 3, 9]
    assert [first[point.label].model.layers for point in study.points()] == ["gap", "conv 8 3\ngap\n", "gap"]
    assert len({request.name for request in study.requests()}) == 6
    copy = tmp_path / "copy.toml"
    copy.write_text(study.to_toml(), encoding="utf-8")
    assert load_study(copy) == study


def test_variants_and_axes_together_are_every_combination(tmp_path: Path) -> None:
    text = VARIANTS.replace('reference = "wide"\n', "").replace('"ablation"', '"grid"')
    study = load(tmp_path, f'{text}\n[axes]\n"fit.batch_size" = [8, 16]\n')
    labels = [point.label for point in study.points()]
    assert labels[:3] == ["as it was, batch_size 8", "as it was, batch_size 16", "wide, batch_size 8"]
    assert study.points()[5].settings == {"fit.epochs": 9, "fit.learning_rate": 0.1, "fit.batch_size": 16}


def test_the_short_form_may_have_other_values_and_fewer_variants(tmp_path: Path) -> None:
    short = '[quick]\nvariants = ["wide", "as it was"]\nseeds = 1\n'
    study = load(tmp_path, VARIANTS + short, quick=True)
    assert [point.label for point in study.points()] == ["wide", "as it was"]
    assert [point.label for point in load(tmp_path, VARIANTS + short).points()][2] == "long & fast"
    other = '[[quick.variants]]\nname = "wide"\nfit.epochs = 1\n'
    assert load(tmp_path, VARIANTS + other, quick=True).points()[0].settings == {"fit.epochs": 1}
    text = 'name = "x"\n[axes]\n"fit.epochs" = [10, 20, 30]\n[quick.axes]\n"fit.epochs" = [1, 2]\n'
    assert [point.settings["fit.epochs"] for point in load(tmp_path, text, quick=True).points()] == [1, 2]


@pytest.mark.parametrize(
    ("name", "label"), [("depth 3", "depth 3"), ("3", "depth 3"), ("all", "depth all"), ("", "depth 0")]
)
def test_the_reference_is_named_by_its_label_or_its_value(tmp_path: Path, name: str, label: str) -> None:
    text = f'name = "x"\nkind = "depth"\nreference = "{name}"\n[axes]\n"model.depth" = [0, 3, "all"]\n'
    assert load(tmp_path, text).reference.label == label


@pytest.mark.parametrize(
    ("kind", "setting", "values"),
    [
        ("data size", "data.train_images", "[10, 20]"),
        ("data size", "data.fraction", "[0.1, 1.0]"),
        ("learning rate", "fit.learning_rate", "[0.1, 1.0]"),
        ("devices", "device", '["cpu", "cuda"]'),
        ("depth", "model.depth", '[0, "all"]'),
    ],
)
def test_each_kind_varies_what_it_is_about(tmp_path: Path, kind: str, setting: str, values: str) -> None:
    study = load(tmp_path, f'name = "x"\nkind = "{kind}"\n[axes]\n"{setting}" = {values}\n')
    assert study.kind == kind
    with pytest.raises(ConfigError, match=f'a study of kind "{kind}" needs the axis'):
        load(tmp_path, f'name = "x"\nkind = "{kind}"\n[axes]\n"fit.weight_decay" = [0.1, 0.2]\n')
    # In every variant it will do as well, but not in one alone.
    one, other = (f'[[variants]]\nname = "{number}"\n"{setting}" = {value}\n' for number, value in enumerate(
        values.strip("[]").split(", ")
    ))  # fmt: skip
    assert len(load(tmp_path, f'name = "x"\nkind = "{kind}"\n{one}{other}').points()) == 2
    with pytest.raises(ConfigError, match="needs the axis"):
        load(tmp_path, f'name = "x"\nkind = "{kind}"\n{one}[[variants]]\nname = "else"\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[variants]]\nfit.epochs = 3\n', "variant 1 needs a name"),
        ('[[variants]]\nname = "a"\n[[variants]]\nname = " a"\n', "two variants with the name a"),
        ('[[variants]]\nname = "a"\nfit.epochz = 3\n', r"no setting 'fit\.epochz'"),
        ('[[variants]]\nname = "a"\nseed = 3\n', "stand in `seeds`"),
        ('[[variants]]\nname = "a"\nfit.epochs = 3\n[axes]\n"fit.epochs" = [1]\n', "no variant can set it too"),
        ('reference = "b"\n[[variants]]\nname = "a"\n', "no point 'b'. There are: a"),
        ('range_test = true\n[[variants]]\nname = "a"\n', 'belongs to a study of kind "learning rate"'),
        ('variants = ["a"]\n', "variants"),
        ('[[variants]]\nname = "a"\n[quick]\nvariants = ["b"]\n', "no variant 'b'"),
        ('[[variants]]\nname = "a"\n[quick]\nvariants = 3\n', r"quick\.variants takes names of variants"),
        ('[[variants]]\nname = "a"\n[quick]\naxes = 3\n', r"quick\.axes takes a table"),
    ],
)  # fmt: skip
def test_mistakes_in_variants_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, f'name = "x"\n{text}', quick=True)
    assert "\n" not in str(caught.value)


def test_what_variants_set_cannot_be_set_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fit\.epochs is set by the study's variants"):
        load(tmp_path, VARIANTS, settings={"fit.epochs": 2})
    assert load(tmp_path, VARIANTS, settings={"fit.batch_size": 2}).base.fit.batch_size == 2


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
        ('name = "x"', "a study needs an axis"),
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
        (
            'name = "x"\nkind = "dept"\n[axes]\n"fit.epochs" = [1]',
            "kind must be one of data size, ablation, models, depth, learning rate, devices, scaling, grid",
        ),
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
