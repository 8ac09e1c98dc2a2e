"""`tintype export` as a whole: what it writes, what it refuses, and what others can do with the files."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from shapes import draw_shape
from typer import Typer
from typer.testing import CliRunner

import tintype as tt
from tintype.cli import ship
from tintype.data.decode import decode_image
from tintype.errors import MissingDependencyError, RunError
from tintype.rundir import RunDir
from tintype.serving import export as module
from tintype.serving import graph
from tintype.serving.export import ExportReport, export_run
from tintype.serving.exported import Exported
from tintype.serving.model import Model, load_model
from tintype.serving.quantize import quantized
from tintype.serving.run_classifier import RunClassifier
from tintype.serving.telling import summary_lines
from tintype.watch import Watch

SETTINGS = {
    "data.resize": "crop", "data.image_size": 24, "evidence.baselines": False, "threads": 1,
    "model.layers": "conv 8 3 relu\nbn\npool 2\nconv 8 3 relu\ngap\ndense 12 relu\n", "model.flip_average": True,
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A run with its export of every kind, and what the ledger held afterwards."""

    run: RunDir
    report: ExportReport
    ledger: list[dict[str, object]]

    @property
    def folder(self) -> Path:
        return self.report.path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Photos larger than the model's size, some turned by their EXIF, some JPEG."""
    root = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINTYPE_CACHE", str(root / "cache"))
        patch.setenv("TINTYPE_LEDGER", str(root / "ledger.jsonl"))
        for name in ("circle", "square"):
            (root / "photos" / name).mkdir(parents=True)
            for number in range(40):
                picture = Image.fromarray(draw_shape(name, random)).resize((60 + number % 7, 50 + number % 5))
                exif = Image.Exif()
                exif[0x0112] = 6 if number % 5 == 0 else 1
                picture.save(root / "photos" / name / f"{number:02}.{'jpg' if number % 3 else 'png'}", exif=exif)
        run = tt.train(
            root / "photos", output=root / "run", epochs=3, device="cpu", precision="fp32", settings=SETTINGS
        )
        report = export_run(RunDir(run.path), root / "out", int8=True, torch_program=True)
        ledger = [json.loads(line) for line in (root / "ledger.jsonl").read_text().splitlines()]
        yield Made(RunDir(run.path), report, ledger)


def photos(made: Made) -> list[Path]:
    return sorted((made.run.path.parent / "photos").glob("*/*"))


def pixels_of(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from tintype.serving.samples import original_pixels

    return original_pixels(path)


def test_everything_is_there_and_was_verified(made: Made) -> None:
    assert {path.name for path in made.folder.iterdir()} == {
        "model.onnx", "model-int8.onnx", "model.pt2", "maps.onnx", "predict.py", "card.html", "export.json",
    }  # fmt: skip
    report, tests = made.report, len(made.run.read_predictions()["test"])
    assert report.images == f"{tests} test images"
    assert (report.same_image.images, report.same_image.other_class) == (tests, 0)
    assert report.same_image.largest <= 1e-4
    assert report.own_resize is not None
    assert (report.own_resize.images, report.maps) == (tests, "")
    assert report.own_resize.largest <= 5e-3
    assert report.own_resize.median <= 1e-4
    assert report.torch is not None
    written = json.loads((made.folder / "export.json").read_text())
    assert written == report.to_plain()
    assert written["files"]["model.onnx"] == (made.folder / "model.onnx").stat().st_size
    onnx.checker.check_model(made.folder / "model.onnx", full_check=True)


def test_the_file_knows_what_the_run_knows(made: Made) -> None:
    exported, model = Exported(made.folder, threads=1), load_model(made.run)
    assert exported.classes == model.classes
    assert exported.geometry == model.geometry
    assert exported.statistics == model.statistics
    assert (exported.threshold, exported.max_megapixels) == (model.threshold, model.max_megapixels)
    assert (exported.name, exported.card) == ("run", made.folder / "card.html")
    assert exported.facts["temperature"] == model.temperature
    assert exported.facts["accuracy"]["value"] == made.run.read_evaluation()["test"].accuracy.value
    assert exported.providers[-1] == "CPUExecutionProvider"


def test_answers_are_the_runs_for_any_number_and_size_of_images(made: Made) -> None:
    exported, run = Exported(made.folder / "model.onnx", threads=1), RunClassifier(made.run.path, "cpu")
    files = photos(made)[:6]
    own = np.stack([decode_image(path, exported.geometry, 89.0) for path in files])
    np.testing.assert_allclose(exported.probabilities(own), run.probabilities(own), atol=1e-5)
    np.testing.assert_allclose(exported.probabilities(own[:1]), run.probabilities(own[:1]), atol=1e-5)
    for path in files:
        pixels = pixels_of(path)
        expected = run.probabilities(decode_image(pixels, exported.geometry, 89.0)[None])
        np.testing.assert_allclose(exported.probabilities(pixels[None]), expected, atol=5e-3)


def test_maps_are_the_runs(made: Made) -> None:
    exported, run = Exported(made.folder, threads=1), RunClassifier(made.run.path, "cpu")
    images = np.stack([decode_image(path, exported.geometry, 89.0) for path in photos(made)[::16]])
    classes = np.arange(len(images), dtype=np.int64) % 2
    maps, expected = exported.maps(images, classes), run.maps(images, classes)
    assert maps is not None
    assert expected is not None
    assert maps.shape == expected.shape
    np.testing.assert_allclose(maps, expected, atol=1e-3)
    assert maps.max() == pytest.approx(1)


def test_int8_is_close_costed_and_in_the_ledger(made: Made) -> None:
    report, labels = made.report.int8, made.run.read_predictions()["test"].labels
    assert report is not None
    assert report.accuracy is not None
    assert report.full_accuracy is not None
    assert report.difference is not None
    assert report.accuracy.n == report.difference.n == len(labels)
    assert report.difference.value == pytest.approx(report.accuracy.value - report.full_accuracy.value)
    assert report.difference.low <= report.difference.value <= report.difference.high
    full, small = Exported(made.folder, threads=1), Exported(made.folder, threads=1, int8=True)
    images = np.stack([decode_image(path, full.geometry, 89.0) for path in photos(made)])
    apart = np.abs(full.probabilities(images) - small.probabilities(images))
    assert 0 < np.median(apart) < 0.05
    looks = [(entry["what"], str(entry["run"]).rsplit("/", 1)[-1]) for entry in made.ledger]
    assert looks == [("train", "run"), ("export", "model-int8.onnx")]
    assert made.ledger[0]["test_set"] == made.ledger[1]["test_set"]
    assert made.ledger[1]["accuracy"] == report.accuracy.value


def test_int8_leaves_standardisation_and_output_layer_in_fp32(made: Made) -> None:
    nodes = onnx.load(made.folder / "model-int8.onnx").graph.node
    maker = {name: node.op_type for node in nodes for name in node.output}
    weighed = [node for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul") and node.name.startswith("network")]
    assert [maker[node.input[0]] for node in weighed[:-1]] == ["DequantizeLinear"] * (len(weighed) - 1)
    assert maker.get(weighed[-1].input[1]) != "DequantizeLinear"
    assert not any(node.op_type == "QuantizeLinear" for node in nodes if not node.name.startswith("network"))


def test_the_torch_program_answers_and_keeps_images_apart(made: Made) -> None:
    """flip_average runs both mirror images in one batch; they must not be mixed with other images."""
    program = torch.export.load(made.folder / "model.pt2").module()
    images = np.stack([decode_image(path, Exported(made.folder, 1).geometry, 89.0) for path in photos(made)[::13]])
    together = program(torch.from_numpy(images)).numpy()
    alone = np.concatenate([program(torch.from_numpy(image[None])).numpy() for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, RunClassifier(made.run.path, "cpu").probabilities(images), atol=1e-4)


def test_the_script_works_with_onnxruntime_and_numpy_alone(made: Made) -> None:
    """Also for a JPEG that is made smaller while it is read, an EXIF turn, and transparency."""
    script = made.folder / "predict.py"
    assert len(script.read_text().splitlines()) <= 30
    clear = made.folder.parent / "clear.png"
    Image.new("RGBA", (60, 40), (255, 0, 0, 0)).save(clear)
    files = [*photos(made)[:8], clear]
    code = (
        "import runpy, sys\n"
        "script = sys.argv.pop(1)\n"
        "sys.argv[0] = script\n"
        "runpy.run_path(script, run_name='__main__')\n"
        "print(*sorted({'torch', 'tintype', 'onnx', 'scipy', 'timm'} & set(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, script, *files], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stderr.strip() == ""
    lines = ended.stdout.splitlines()
    assert len(lines) == len(files)
    run = RunClassifier(made.run.path, "cpu")
    for line, path in zip(lines, files, strict=True):
        (row,) = run.probabilities(decode_image(path, run.geometry, 89.0)[None])
        shown, label, percent = line.removesuffix(" (not sure)").rsplit(" ", 2)
        assert (Path(shown.rstrip(":")), label) == (path, run.classes[int(row.argmax())])
        assert float(percent.rstrip("%")) / 100 == pytest.approx(row.max(), abs=0.02)
        assert line.endswith("(not sure)") == (row.max() < run.threshold)


def test_the_files_tell_nothing_of_the_machine_they_were_made_on(made: Made) -> None:
    for path in made.folder.iterdir():
        content = path.read_bytes()
        for name in (b"site-packages", b"network.py", str(made.run.path.parent).encode()):
            assert name not in content, (path.name, name)
    graph = onnx.load(made.folder / "model.onnx").graph
    assert [axis.dim_param for axis in graph.input[0].type.tensor_type.shape.dim[:3]] == ["N", "H", "W"]
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_card_is_whole_and_says_nothing_of_the_machine(made: Made) -> None:
    card = (made.folder / "card.html").read_text()
    accuracy = made.run.read_evaluation()["test"].accuracy
    for words in (
        "Content-Security-Policy", "Model card", "“circle”", "“square”", f"of {accuracy.n} test images", "int8",
        "24 × 24 pixels", "near ties", "none of these classes",
    ):  # fmt: skip
        assert words in card, words
    assert "<script" not in card


def test_a_mismatch_fails_and_leaves_the_former_export(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(made.folder, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    begin = graph.Answers.__init__

    def hotter(self: graph.Answers, model: Model) -> None:
        begin(self, model)
        self.temperature *= 1.5

    monkeypatch.setattr(graph.Answers, "__init__", hotter)
    with pytest.raises(RunError, match=r"the export failed: a probability of model\.onnx") as caught:
        export_run(made.run, folder)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_the_images_the_pictures_of_the_report_serve(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(made.run.path, run.path)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("photos", "elsewhere"))
    pictures = made.run.read_json("gallery.json")
    monkeypatch.setattr("tintype.serving.maps.maps_model", lambda *_: "left out by a test")
    told: list[str] = []
    with pytest.raises(RunError, match="--int8 takes the ranges"):
        export_run(run, int8=True)
    report = export_run(run, watch=Watch(on_message=told.append))
    assert report.path == run / "export"
    assert report.images == f"{len(pictures)} pictures of the report"
    assert report.maps == "left out by a test"
    assert any("verified on" in line and "elsewhere" in line for line in told)
    assert not (report.path / "maps.onnx").exists()
    run.write_json("gallery.json", [])
    with pytest.raises(RunError, match="cannot be verified"):
        export_run(run, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_in_the_way_or_missing_is_one_line(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RunError, match="is no export"):
        export_run(made.run, tmp_path / "mine")
    with pytest.raises(RunError, match="there is no run directory"):
        export_run(RunDir(tmp_path / "absent"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(MissingDependencyError, match=r"onnxscript: pip install 'tintype\[export\]'"):
        export_run(made.run, tmp_path / "out")


def test_a_network_of_one_layer_is_not_quantised() -> None:
    layer = onnx.helper.make_node("MatMul", ["resized", "w"], ["probabilities"], name="only")
    names = ("resized", "probabilities")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in names]
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    inner = onnx.helper.make_graph([layer], "g", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(inner, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(RunError, match="fewer than two layers with weights"):
        quantized(model, np.zeros((2, 4, 4, 3), np.uint8))


def test_the_command_line_tells_what_came_of_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def instead(run: RunDir, output: Path | None, **options: object) -> ExportReport:
        asked.append((run.path, output, options["int8"], options["torch_program"]))
        return made.report

    monkeypatch.setattr(module, "export_run", instead)
    app = Typer()
    app.command()(ship.export)
    shown = CliRunner().invoke(app, ["runs/a", "--int8"])
    assert shown.exit_code == 0
    assert f"written: {made.folder}" in shown.stderr
    plain = CliRunner().invoke(app, ["runs/a", "-o", "b", "--torch", "--json"])
    assert json.loads(plain.stdout) == {"path": str(made.folder), **made.report.to_plain()}
    assert asked == [(Path("runs/a"), None, True, False), (Path("runs/a"), Path("b"), False, True)]
    lines = summary_lines(made.report)
    assert lines[-1] == f"try: python {made.folder / 'predict.py'} IMAGE"
    assert any(line.startswith("int8: accuracy") and "95 % interval" in line for line in lines)


def test_serve_exports_in_another_process_and_never_imports_torch(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.run.path, tmp_path / "run")
    with serving(run) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"{run} has no export yet: making {run / 'export'}\n"
        line = process.stderr.readline()
        assert line.startswith("serving run on http://127.0.0.1:"), line + process.stderr.read()
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "stopped; everything that was accepted is answered\n")
    assert process.returncode == 0
    assert (run / "export" / "model.onnx").is_file()


def test_ctrl_c_while_serve_exports_leaves_nothing(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.run.path, tmp_path / "run")
    with serving(run) as process:
        end = time.monotonic() + 60
        while not list(run.glob(".export.*.new")) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "")
    assert errors.splitlines()[1:] == ["tintype: stopped."]
    assert not list(run.glob("*export*"))


def test_serve_says_in_one_line_why_a_run_cannot_be_exported(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.run.path, tmp_path / "run")
    (run / "model.safetensors").write_bytes(b"damaged")
    with serving(run) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    first, last = errors.splitlines()
    assert first.startswith(f"{run} has no export yet")
    assert last.startswith("tintype: ")
    assert "model.safetensors" in last


@contextmanager
def serving(run: Path) -> Iterator[subprocess.Popen[str]]:
    """`tintype serve` on any free port; killed if it is still there at the end."""
    command = [sys.executable, "-m", "tintype", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
