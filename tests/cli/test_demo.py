"""What `tintype demo` ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tintype import api
from tintype.cli import train
from tintype.run import Run
from tintype.watch import Watch


def test_the_demo_ends_with_a_label_and_how_to_serve(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"fit.epochs": 1, "evidence.baselines": False, "evidence.attention": False}

    def few_digits(*, output: Path | None, seed: int | None, watch: Watch) -> Run:
        return api.train(shapes_folder, output=output, seed=seed, settings=settings, watch=watch)

    monkeypatch.setattr(api, "demo", few_digits)
    monkeypatch.setattr("tintype.demo.write_digits", lambda: shapes_folder)
    train.demo(output=tmp_path / "digits")
    said = capsys.readouterr().err
    result, _, after = said.partition("report: ")
    assert "test images right" in result
    command = next(line for line in after.splitlines() if "tintype predict" in line)
    image = Path(command.split()[-1])
    assert image.is_file()
    assert image.is_relative_to(shapes_folder)
    assert f"tintype serve {tmp_path / 'digits'}" in after
