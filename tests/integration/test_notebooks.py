# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The notebooks, as a reader runs them: from top to bottom, in a kernel of their own, but sooner done."""

import re
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbmake.nb_result import NotebookResult
from nbmake.nb_run import NotebookRun

NOTEBOOKS = ("01_quick_start", "02_compare", "03_explore", "04_your_own_folder", "05_a_verdict_to_sign")
EXPORT = ("onnx", "onnxscript", "openvino")
CELL_SECONDS = 600  # a slow machine is no error
QUICK = "TrainingConfig(epochs=1)"  # of a notebook's models
UPRIGHT = ", memory={'turns': 'none'}"  # the turns take most of the time
LARGEST = 400_000  # bytes, which a code host still shows


def read(repository: Path, name: str) -> nbformat.NotebookNode:
    return nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)


def run(repository: Path, name: str, folder: Path) -> NotebookResult:
    """Run a copy of a notebook in a folder of its own, with a single epoch and shots as they are wherever it trains."""
    notebook, trainings = read(repository, name), 0
    for cell in notebook.cells:
        quick = QUICK if "memory" in cell.source else QUICK + UPRIGHT
        cell.source, number = re.subn(r"TrainingConfig\(epochs=\d+(?:, stop_early=False)?\)", quick, cell.source)
        trainings += number
    assert trainings, "it trains for a number of epochs"
    copy = folder / f"{name}.ipynb"
    nbformat.write(notebook, copy)
    return NotebookRun(copy, default_timeout=CELL_SECONDS).execute()


def outputs_of(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def test_every_notebook_is_tested(repository: Path) -> None:
    assert sorted(path.stem for path in (repository / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_small_with_all_of_its_outputs_or_none(repository: Path, name: str) -> None:
    notebook = read(repository, name)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)) or not any(cell.outputs or cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert (repository / "notebooks" / f"{name}.ipynb").stat().st_size < LARGEST
    assert "SPDX-License-Identifier: Apache-2.0" in notebook.cells[0].source
    words = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "paper's backbone" in words or "ONLINE = True" in words


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom_and_shows_images(
    repository: Path,
    name: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    few_textures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "04_your_own_folder" and (missing := [package for package in EXPORT if find_spec(package) is None]):
        pytest.skip(f"the export extra is not installed: no {', '.join(missing)}")
    whole = tmp_path_factory.getbasetemp() / "cache"  # whose images the fourth one takes for its own
    monkeypatch.setenv("ANOPLE_CACHE", str(whole if name == "04_your_own_folder" else few_textures))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = run(repository, name, tmp_path)
    assert result.error is None, result.error.trace
    assert len(outputs_of(result.nb, "image/png")) >= 3
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.ipynb"]  # nothing is left beside it
