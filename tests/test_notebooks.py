"""The notebooks: executed through papermill as users do, and what is committed of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest

from utils import runtime

NOTEBOOKS = sorted((runtime.ROOT / "notebooks").glob("[0-9]*.ipynb"))


def run_papermill(notebook, output, *arguments, cwd):
    """``papermill`` from another directory, its kernel writing under ``cwd`` alone."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ})


def streams(notebook):
    return "".join(
        output["text"]
        for cell in nbformat.read(notebook, as_version=4).cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )


@pytest.fixture
def parameters(tmp_path):
    return ["-p", "output_dir", str(tmp_path / "output"), "-p", "precision", "fp32"]


def test_a_fold_trains_under_papermill_from_any_directory(tmp_path, parameters):
    output = tmp_path / "out.ipynb"
    done = run_papermill(
        NOTEBOOKS[0], output, "-p", "preset", "tiny", "-p", "fold", "2", "-r", "run", "007", *parameters, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "output" / "007" / "fold-2"
    assert json.loads((folder / "result.json").read_text())["fold"] == 2
    assert {"history.png", "predictions.png", "swa"} <= {path.name for path in folder.iterdir()}
    text = streams(output)
    assert "Fold 2: fp32" in text
    assert text.count("epoch ") == 2, "one line an epoch"
    assert "it/s" not in text, "no progress bar under papermill"
    assert "step/s" not in text


def test_the_notebook_trains_the_other_recipes_too(tmp_path, parameters):
    """A parameter that is not in the parameters cell (layer_dropout) is a field of Config all the same."""
    options = {"preset": "tiny", "optimizer": "madgrad", "param_groups": "grouped", "loss": "rmse", "averaging": "ema",
               "pooling": "cls_layers", "layer_dropout": 0.1, "lr": 1e-4, "accumulation_steps": 2}  # fmt: skip
    flat = [word for name, value in options.items() for word in ("-p", name, str(value))]
    done = run_papermill(NOTEBOOKS[0], tmp_path / "out.ipynb", *flat, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    about = json.loads((tmp_path / "output" / "tiny" / "fold-0" / "config.json").read_text())
    assert about["config"]["layer_dropout"] == 0.1


def test_the_demo_learns(tmp_path, parameters):
    """The shipped encoder on the shipped data: the main job, as `make run` does it."""
    done = run_papermill(
        NOTEBOOKS[0], tmp_path / "out.ipynb", "-p", "preset", "demo", *parameters[:3], cwd=runtime.ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "output" / "demo" / "fold-0"
    scores = json.loads((folder / "result.json").read_text())["scores"]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert scores["swa"]["rmse"] < 0.6 * predictions["target"].std()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "fld", "3"], "InputError: 'fld' is not a parameter; did you mean 'fold'?"),
        (["-p", "fold", "9"], "InputError: fold=9 does not exist"),
        (["-p", "data", "nowhere.csv"], "InputError: data='nowhere.csv' is not a file"),
        (["-p", "text_column", "words"], "has no column 'words'"),
    ],
)
def test_bad_parameters_end_in_one_sentence_and_write_nothing(tmp_path, parameters, arguments, sentence):
    done = run_papermill(
        NOTEBOOKS[0], tmp_path / "out.ipynb", "-p", "preset", "tiny", *arguments, *parameters, cwd=tmp_path
    )
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "utils/" not in done.stderr.split("Exception encountered")[-1], "a sentence, not a traceback"
    assert not (tmp_path / "output").exists()


def test_papermill_knows_the_parameters_with_their_help():
    parameters = papermill.inspect_notebook(str(NOTEBOOKS[0]))
    assert parameters["fold"]["inferred_type_name"] == "int"
    assert parameters["lr"]["inferred_type_name"] == "Optional[float]"
    (cell,) = [c for c in nbformat.read(NOTEBOOKS[0], 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == len(re.findall(r"^\w+: ", cell.source, flags=re.MULTILINE)) >= 15
    assert all(parameter["help"] for parameter in parameters.values())


# --- what is committed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_fit_to_be_read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code)
    assert notebook.cells[0].source.startswith("# ")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert all(cell.source.count("\n") < 25 for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    text = json.dumps(outputs)
    assert not re.search(r"/(root|home|work|tmp|Users)/", text), "an output holds a path of a machine"
    assert path.stat().st_size < 1_000_000
    assert any("parameters" in cell.metadata.get("tags", []) for cell in code)
    assert "papermill" not in notebook.metadata


def test_the_setup_cell_is_the_same_in_every_notebook():
    cells = {
        cell.source
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        if cell.source.startswith("# Setup:")
    }
    assert len(cells) == 1


@pytest.mark.parametrize("layout", ["clone", "inside", "kaggle", "kaggle-nested"])
def test_the_setup_cell_finds_the_code(layout, tmp_path, monkeypatch):
    (cell,) = {c.source for c in nbformat.read(NOTEBOOKS[0], 4).cells if c.source.startswith("# Setup:")}
    project = {
        "clone": tmp_path,
        "inside": tmp_path,
        "kaggle": tmp_path / "input" / "suite",
        "kaggle-nested": tmp_path / "input" / "datasets" / "owner" / "suite",
    }[layout]
    (project / "utils").mkdir(parents=True)
    (project / "utils" / "averaging.py").touch()
    here = {"clone": tmp_path, "inside": tmp_path / "notebooks"}.get(layout, tmp_path / "working")
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    namespace = {}
    exec(cell.replace("/kaggle/input", str(tmp_path / "input")), namespace)
    assert Path(namespace["root"]) == project
    assert sys.path[0] == str(project)


def test_the_setup_cell_says_when_there_is_no_code(tmp_path, monkeypatch):
    (cell,) = {c.source for c in nbformat.read(NOTEBOOKS[0], 4).cells if c.source.startswith("# Setup:")}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="open the notebook inside a clone"):
        exec(cell, {})
