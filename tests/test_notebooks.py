"""The notebooks: executed with papermill, as users do, and as they are committed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import papermill
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from PIL import Image

from tests import hostile
from tests.lit.label_runs import KINDS, label_table
from utils import Config, add_folds, fit_fold, load_table
from utils.machine import runtime
from utils.reporting import style

NOTEBOOKS = sorted((runtime.ROOT / "notebooks").glob("[0-9]*.ipynb"))
SETUP, TRAINING, EVALUATION, INTERPRETATION, RATES, SUBMISSION, *TOURS = NOTEBOOKS


def run_papermill(notebook, output, *arguments, cwd, suite_root=runtime.ROOT):
    """Run papermill in the directory ``cwd``; ``suite_root`` None leaves SUITE_ROOT unset."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "SUITE_ROOT"}
    if suite_root:
        variables["SUITE_ROOT"] = str(suite_root)
    for _ in range(2):
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=variables)
        if "Kernel died before replying" not in done.stderr:
            break  # another kernel has taken one of the free ports that jupyter_client had picked
    return done


def streams(notebook):
    return "".join(
        output["text"]
        for cell in nbformat.read(notebook, as_version=4).cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )


def n_plots(notebook):
    """How many plots are among the outputs; a drawing from docs/pictures is not one."""
    outputs = [out for cell in nbformat.read(notebook, 4).cells for out in cell.get("outputs", [])]
    shown = [out for out in outputs if "image/png" in out.get("data", {})]
    return sum("width" not in out["metadata"].get("image/png", {}) for out in shown)


@pytest.fixture
def parameters(tmp_path):
    return ["-p", "output_dir", str(tmp_path / "output"), "-p", "precision", "fp32"]


def test_a_fold_trains_under_papermill_in_another_directory(tmp_path, parameters):
    output = tmp_path / "out.ipynb"
    settings = ["-p", "preset", "tiny", "-p", "fold", "2", "-r", "run", "007"]
    done = run_papermill(TRAINING, output, *settings, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "output" / "007" / "fold-2"
    assert json.loads((folder / "result.json").read_text())["fold"] == 2
    assert {"history.png", "predictions.png", "averaged"} <= {path.name for path in folder.iterdir()}
    text = streams(output)
    assert "Fold 2: fp32" in text
    assert text.count("epoch ") == 2, "one line per epoch"
    assert "it/s" not in text, "no progress bar under papermill"
    assert "step/s" not in text
    assert "· target" not in text, "samples are in a table, not in papermill's log"
    assert re.findall(r"step (\d+)</th>", output.read_text(encoding="utf-8")) == ["4", "8"]


@pytest.mark.parametrize("suite_root", [None, "/no/such/clone"])
def test_a_notebook_in_another_directory_asks_for_suite_root(tmp_path, parameters, suite_root):
    settings = ["-p", "preset", "tiny", *parameters]
    done = run_papermill(TRAINING, tmp_path / "out.ipynb", *settings, cwd=tmp_path, suite_root=suite_root)
    assert done.returncode != 0
    searched = f"SUITE_ROOT={suite_root}" if suite_root else f"{tmp_path} or a folder above it"
    message = f"FileNotFoundError: no utils/training/averaging.py in {searched}; set SUITE_ROOT to a clone of https://"
    assert message in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.full
def test_the_notebook_trains_the_other_recipes_too(tmp_path, parameters):
    """A field of Config need not be in the parameters cell (layer_dropout) to be set."""
    options = {
        "preset": "tiny",
        "optimizer": "madgrad",
        "param_groups": "grouped",
        "loss": "rmse",
        "averaging": "ema",
        "pooling": "cls_layers",
        "layer_dropout": 0.1,
        "lr": 1e-4,
        "accumulation_steps": 2,
    }
    settings = [word for name, value in options.items() for word in ("-p", name, str(value))]
    done = run_papermill(TRAINING, tmp_path / "out.ipynb", *settings, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    metadata = json.loads((tmp_path / "output" / "tiny" / "fold-0" / "run.json").read_text())
    assert metadata["config"]["layer_dropout"] == 0.1


def test_the_tour_of_labels_runs_to_its_end(tmp_path, parameters):
    notebook = TOURS[0]
    settings = ["-p", "preset", "tiny", "-p", "folds", "0,1", *parameters]
    done = run_papermill(notebook, output := tmp_path / "out.ipynb", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    text = output.read_text()
    assert "Fitted to the other folds, cuts change macro F1 by" in text
    assert "has the highest rounded QWK" in text
    assert len([*(tmp_path / "output").glob("tiny-*/fold-*/averaged")]) == 18


@pytest.mark.full
def test_the_demo_learns(tmp_path, parameters):
    """`make run`'s encoder and data, started in the same way, but for two epochs instead of five."""
    short = ["-p", "preset", "demo", "-p", "epochs", "2", "-p", "swa_start", "1", *parameters[:3]]
    done = run_papermill(TRAINING, tmp_path / "out.ipynb", *short, cwd=runtime.ROOT, suite_root=None)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "output" / "demo" / "fold-0"
    scores = json.loads((folder / "result.json").read_text())["scores"]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert scores["averaged"]["rmse"] < 0.6 * predictions["target"].std()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "fld", "3"], "InputError: 'fld' is not a parameter; did you mean 'fold'?"),
        pytest.param(["-p", "fold", "9"], "InputError: fold=9 does not exist", marks=pytest.mark.full),
        pytest.param(
            ["-p", "data", "nowhere.csv"],
            "InputError: data='nowhere.csv' is not a file",
            marks=pytest.mark.full,
        ),
        pytest.param(["-p", "text_column", "words"], "has no column 'words'", marks=pytest.mark.full),
    ],
)
def test_bad_parameters_end_in_one_sentence_and_write_nothing(tmp_path, parameters, arguments, sentence):
    settings = ["-p", "preset", "tiny", *arguments, *parameters]
    done = run_papermill(TRAINING, tmp_path / "out.ipynb", *settings, cwd=tmp_path)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "utils/" not in done.stderr.split("Exception encountered")[-1], "a sentence, not a traceback"
    assert not (tmp_path / "output").exists()


def test_papermill_knows_the_parameters_with_their_help():
    parameters = papermill.inspect_notebook(str(TRAINING))
    assert parameters["fold"]["inferred_type_name"] == "int"
    assert parameters["lr"]["inferred_type_name"] == "Optional[float]"
    (cell,) = [c for c in nbformat.read(TRAINING, 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == len(re.findall(r"^\w+: ", cell.source, flags=re.MULTILINE)) >= 15
    assert all(parameter["help"] for parameter in parameters.values())


# --- 01 -----------------------------------------------------------------------------------------------------


def test_setup_tells_what_works_and_compares_the_precisions(tmp_path):
    output = tmp_path / "out.ipynb"
    done = run_papermill(SETUP, output, "-p", "preset", "tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(output, as_version=4).cells
    text = json.dumps([cell.get("outputs", []) for cell in cells], ensure_ascii=False)
    assert "✓\u00a0works" in text
    assert "✗" not in text
    assert "here: data/sample/train.csv" in text
    assert re.search(r"(bf16|fp32): the CPU", text)
    assert "samples/s" in text
    assert n_plots(output) == 1
    assert "Everything that the suite needs works here." in text
    assert "it/s" not in text


@pytest.mark.full
def test_setup_builds_apex_where_it_is_asked_for_and_says_where_it_cannot_be(tmp_path, monkeypatch):
    """With a stand-in for bash; tests/test_setup.py tests what setup.sh --apex does."""
    (tmp_path / "bin").mkdir()
    bash = tmp_path / "bin" / "bash"
    bash.write_text('#!/bin/sh\necho "asked for ${PYTHON##*/} $*"\n')
    bash.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bash.parent}:{os.environ['PATH']}")
    output = tmp_path / "out.ipynb"
    done = run_papermill(SETUP, output, "-p", "preset", "tiny", "-p", "precision", "apex-O1", cwd=tmp_path)
    assert done.returncode != 0
    in_venv = Path(sys.prefix) == runtime.ROOT / ".venv"
    assert f"asked for python {runtime.ROOT}/setup.sh --apex{'' if in_venv else ' --here'}" in streams(output)
    assert 'InputError: precision="apex-O1" needs a CUDA GPU, and there is none; use "auto".' in done.stderr


# --- 03 to 06 -----------------------------------------------------------------------------------------------


def test_evaluation_and_submission_train_what_they_lack_and_read_it(tmp_path, parameters):
    """Run without trained folds. Averaging after every step leaves enough snapshots to span a plane."""
    settings = ["-p", "preset", "tiny", "-p", "swa_every", "1", *parameters]
    small = ["-p", "grid", "3", "-p", "low_precision", "False"]
    done = run_papermill(EVALUATION, tmp_path / "03.ipynb", *settings, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    text = streams(tmp_path / "03.ipynb")
    assert "Fold 0 of tiny is missing; it is trained now." in text
    assert "Folds 0, 1 of tiny; not trained: 2, 3, 4." in text
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "03.ipynb", 4).cells])
    assert n_plots(tmp_path / "03.ipynb") == 7
    assert re.search(r"\*\*(Averaging helped|Averaging did not help|Inconclusive)", outputs)

    done = run_papermill(SUBMISSION, tmp_path / "06.ipynb", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is missing" not in streams(tmp_path / "06.ipynb"), "the folds have been trained by now"
    assert (tmp_path / "output" / "tiny" / "onnx" / "model.onnx").is_file()
    submission = pd.read_csv(tmp_path / "output" / "tiny" / "submission.csv", dtype={"id": str})
    sample = pd.read_csv(runtime.ROOT / "data" / "sample" / "sample_submission.csv", dtype={"id": str})
    assert submission["id"].tolist() == sample["id"].tolist()
    assert submission["target"].nunique() > 1


#: Of each task of labels its target columns, and their cells for a sample's level (1: easiest) and row.
LABELS = {
    "binary": {"suitable": lambda level, row: "yes" if level <= 3 else "no"},
    "multiclass": {"third": lambda level, row: ("easy", "medium", "hard")[(level - 1) // 2]},
    "ordinal": {"level": lambda level, row: level},
    "multilabel": {"simple": lambda level, row: int(level <= 3), "even": lambda level, row: row % 2},
}


@pytest.mark.full
@pytest.mark.parametrize("task", LABELS)
def test_the_notebooks_take_labels(tmp_path, parameters, task):
    """01 reads them, 02 trains a fold, 03 another and compares them, 06 submits."""
    rows = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv", dtype=str, keep_default_na=False)
    levels = ((1.0 - rows["target"].astype(float)) / 0.8 + 1).round().astype(int)
    cells = {
        name: [cell(*pair) for pair in zip(levels, rows.index, strict=True)]
        for name, cell in LABELS[task].items()
    }
    rows.assign(**cells).to_csv(tmp_path / "train.csv", index=False)
    rows.head(9)[["id", "excerpt"]].to_csv(tmp_path / "test.csv", index=False)
    options = {"preset": "tiny", "data": tmp_path / "train.csv", "task": task, "run": "labels"}
    options |= {"target_columns": ",".join(LABELS[task]), "swa_every": 1, "eval_every": 2}
    settings = [*parameters, *(word for name, value in options.items() for word in ("-p", name, str(value)))]
    notebooks = {TRAINING: 4, EVALUATION: 7, SUBMISSION: 1} | ({} if task == "binary" else {SETUP: 1})
    for notebook, pictures in notebooks.items():
        extra = ["-p", "low_precision", "False", "-p", "grid", "3"] if notebook == EVALUATION else []
        done = run_papermill(notebook, tmp_path / notebook.name, *settings, *extra, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        outputs = [c.get("outputs", []) for c in nbformat.read(tmp_path / notebook.name, 4).cells]
        assert n_plots(tmp_path / notebook.name) == pictures, notebook.name
        assert "stderr" not in json.dumps(outputs), "a warning"
    submission = pd.read_csv(tmp_path / "output" / "labels" / "submission.csv")
    assert submission.columns.tolist() == ["id", *LABELS[task]]
    if task != "multilabel":  # which has probabilities where no sample says otherwise
        (name,) = LABELS[task]
        assert set(submission[name]) <= set(cells[name])


@pytest.mark.full
def test_low_precision_is_compared_by_default_for_the_quick_presets(tmp_path, parameters):
    done = run_papermill(EVALUATION, tmp_path / "03.ipynb", "-p", "preset", "tiny", *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "output").iterdir()} >= {"tiny", "tiny-bf16", "tiny-bfp8"}
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "03.ipynb", 4).cells])
    assert "8-bit weights change the last RMSE by" in outputs
    assert "too little was averaged for a plane" in outputs, "tiny averages once"


@pytest.mark.full
def test_evaluation_without_folds_says_what_to_run_first(tmp_path, parameters):
    done = run_papermill(
        EVALUATION, tmp_path / "03.ipynb", "-p", "preset", "clear", *parameters, cwd=tmp_path
    )
    assert done.returncode != 0
    assert "clear holds no finished fold; train one first with notebook 02 (preset=clear)" in done.stderr


def test_the_rates_are_drawn_in_seconds_without_training(tmp_path):
    settings = ["-p", "preset", "commonlit_original", "-p", "encoder", "tiny", "-p", "rows", "500"]
    done = run_papermill(RATES, tmp_path / "05.ipynb", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "05.ipynb", 4).cells])
    assert n_plots(tmp_path / "05.ipynb") == 3
    assert "35.6 times that rate, and 13.0 times its own peak" in outputs, "as published"
    assert "to move the sliders" in outputs


def test_lit_answers_headless_and_pictures_stand_in_for_its_page(tmp_path, parameters):
    done = run_papermill(
        INTERPRETATION, tmp_path / "04.ipynb", "-p", "preset", "tiny", *parameters, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Fold 0 of tiny is missing; it is trained now." in streams(tmp_path / "04.ipynb")
    (difference,) = re.findall(r"largest difference: ([\d.]+)", streams(tmp_path / "04.ipynb"))
    assert float(difference) <= 1e-4, "LIT's scores are those of predictions.csv"
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "04.ipynb", 4).cells])
    assert outputs.count("image/png") == 10
    assert "iframe" not in outputs
    assert outputs.count("{'score': ") == 3, "the least wrapper answers"
    assert "Rank correlation with leaving out each of the" in outputs
    pictures = {path.stem for path in (tmp_path / "output" / "tiny" / "pictures").iterdir()}
    assert pictures == {"words", "attention", "head", "heads", "rollout", "maps", "effects", "easy-hard"}


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_lit_answers_for_labels(tmp_path, parameters, kind):
    label_table().to_csv(tmp_path / "labels.csv", index=False)
    options = {"preset": "tiny", "data": str(tmp_path / "labels.csv"), "texts": "12", **KINDS[kind]}
    settings = [word for option in options.items() for word in ("-p", *option)]
    done = run_papermill(INTERPRETATION, tmp_path / "04.ipynb", *settings, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (difference,) = re.findall(r"largest difference: ([\d.]+)", streams(tmp_path / "04.ipynb"))
    assert float(difference) <= 1e-4, "LIT's scores are those of predictions.csv"
    text = (tmp_path / "04.ipynb").read_text(encoding="utf-8")
    explained = f"expected {KINDS[kind]['target_columns']}" if "ordinal" in kind else "log-odds of “"
    assert explained in text
    pictures = {path.stem for path in (tmp_path / "output" / "tiny-labels" / "pictures").iterdir()}
    assert pictures == {"words", "attention", "head", "heads", "rollout", "maps", "effects", "easy-hard"}


@pytest.mark.full
@pytest.mark.parametrize("pooling", ["tokens", "lcf_cdw", "lsa"])
def test_lit_answers_for_pairs(tmp_path, parameters, pooling):
    preset = "questions" if pooling == "tokens" else "aspects"
    options = {"preset": preset, "encoder": "tiny", "max_rows": "150", "epochs": "1", "swa_start": "0.4"}
    options |= {"swa_every": "2", "pooling": pooling, "output_dir": str(tmp_path / "output")}
    config = Config.make(**options)
    fit_fold(config, add_folds(load_table(config), config))
    settings = ["-p", "preset", preset, "-p", "texts", "8", *parameters]
    done = run_papermill(INTERPRETATION, tmp_path / "04.ipynb", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Words are left out of single texts here" in (tmp_path / "04.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("weights", "first", "weights='first' is not known; choose one of: averaged, best, last."),
        ("preset", "clear", "clear holds no finished fold; train one first with notebook 02 (preset=clear)"),
    ],
)
@pytest.mark.full
def test_lit_says_in_a_sentence_what_is_missing(tmp_path, parameters, name, value, sentence):
    options = {"preset": "tiny", name: value}
    settings = [word for option in options.items() for word in ("-p", *option)]
    done = run_papermill(INTERPRETATION, tmp_path / "04.ipynb", *settings, *parameters, cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(f"InputError: .*{re.escape(sentence)}", done.stderr)


@pytest.mark.full
def test_nothing_of_a_table_runs_in_a_notebooks_page(tmp_path, parameters):
    """Ids, texts, labels, names of columns and parameters that are markup, in the pages nbconvert makes."""
    hostile.make_table().to_csv(tmp_path / "train.csv", index=False)
    hostile.make_table(12).to_csv(tmp_path / "test.csv", index=False)
    options = {"preset": "tiny", "data": str(tmp_path / "train.csv"), "swa_every": "1", **hostile.COLUMNS}
    settings = [*parameters, *(word for name, value in options.items() for word in ("-p", name, value))]
    for notebook in (TRAINING, EVALUATION, INTERPRETATION, SUBMISSION):
        extra = ["-p", "low_precision", "False", "-p", "grid", "3"] if notebook == EVALUATION else []
        done = run_papermill(notebook, tmp_path / notebook.name, *settings, *extra, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        page = hostile.check_page(HTMLExporter().from_filename(tmp_path / notebook.name)[0])
        shown = [string for string in hostile.STRINGS if string in page]
        assert len(shown) >= 4, notebook.name


@pytest.mark.full
def test_the_tour_of_aspects_trains_what_it_compares(tmp_path, parameters):
    settings = {"encoder": "tiny", "epochs": "1", "swa_start": "0.4", "swa_every": "2", "folds": "0"}
    words = [word for option in (settings | {"max_rows": "150"}).items() for word in ("-p", *option)]
    done = run_papermill(TOURS[1], tmp_path / "08.ipynb", *words, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "08.ipynb", 4).cells])
    assert outputs.count("image/png") == 2
    assert len(list((tmp_path / "output").glob("aspects-*/fold-0/result.json"))) == 4
    assert "13 of 18 lie in several folds, and scores flatter" in outputs
    assert re.search(r"Random folds train on the sentences of \d+% of the held-out aspects", outputs)


def test_the_tour_of_questions_judges_its_cut_on_other_folds(tmp_path, parameters):
    settings = {"preset": "questions", "encoder": "tiny", "epochs": "1", "swa_start": "0.4", "swa_every": "2"}
    words = [word for option in (settings | {"max_rows": "120"}).items() for word in ("-p", *option)]
    done = run_papermill(TOURS[2], tmp_path / "09.ipynb", *words, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "09.ipynb", 4).cells])
    assert outputs.count("image/png") == 2
    assert "sentence with most words in common" in outputs
    assert "Fitted to the other folds, cuts change F1 by" in outputs
    assert "The text does not say." in outputs


@pytest.mark.full
def test_three_loops_come_to_the_same_weights(tmp_path, parameters):
    """Without Lightning, two."""
    settings = {"preset": "tiny", "epochs": "2", "views": "3"}
    words = [word for option in settings.items() for word in ("-p", *option)]
    done = run_papermill(TOURS[3], tmp_path / "10.ipynb", *words, *parameters, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = json.dumps([c.get("outputs", []) for c in nbformat.read(tmp_path / "10.ipynb", 4).cells])
    (difference,) = re.findall(r"no weight differs by more than ([\d.e-]+)\.", outputs)
    assert float(difference) < 1e-5
    assert "lines of code" in outputs
    assert re.search(r"mse: off by \d", outputs)
    assert (tmp_path / "output" / "trainers-hugging_face" / "fold-0" / "manifest.json").is_file()


# --- what is committed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_readable(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code)
    assert notebook.cells[0].source.startswith("# ")
    assert all(cell.source.count("\n") < 25 for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert outputs
    assert "MINUTES" not in notebook.cells[0].source, "say how many minutes it took"
    assert not [output for output in outputs if output.output_type == "error"]
    text = json.dumps(outputs)
    assert not re.search(r"/(root|home|work|tmp|Users)/", text), "an output holds a path of one machine"
    assert path.stat().st_size < 1_000_000
    assert any("parameters" in cell.metadata.get("tags", []) for cell in code)
    assert "papermill" not in notebook.metadata


def test_the_setup_cell_is_the_same_in_every_notebook():
    cells = {
        cell.source
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        if cell.source.startswith("# @title Setup:")
    }
    (cell,) = cells
    lines = cell.splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_folded_on_the_right_machine(path):
    """Colab, Kaggle and JupyterLab each have their own way to say it."""
    notebook = nbformat.read(path, as_version=4)
    (setup,) = [cell for cell in notebook.cells if cell.source.startswith("# @title Setup:")]
    assert setup.metadata["cellView"] == "form"
    assert setup.metadata["jupyter"]["source_hidden"]
    assert setup.metadata["_kg_hide-input"]
    needs_gpu = path != RATES
    assert (notebook.metadata.get("accelerator") == "GPU") == needs_gpu
    assert notebook.metadata["kaggle"]["isGpuEnabled"] == needs_gpu
    assert notebook.metadata["kaggle"]["isInternetEnabled"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_fits_a_narrow_window(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines())) <= 100, cell.source


@pytest.mark.parametrize("name", ["swa", "layers", "precision", "folds", "flow", "hero"])
def test_a_drawing_is_small_and_opaque(name):
    path = runtime.ROOT / "docs" / "pictures" / f"{name}.png"
    assert path.stat().st_size < 150_000
    assert style.drawing(name).data.startswith(b"\x89PNG")
    assert "transparency" not in Image.open(path).info


# --- the setup cell -----------------------------------------------------------------------------------------


@pytest.fixture
def setup_cell(tmp_path, monkeypatch):
    """Run the setup cell as IPython would, with /kaggle/input moved and shell commands recorded.

    Calling it returns the cell's variables; ``commands`` among them is the list of shell commands.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    (cell,) = {c.source for c in nbformat.read(TRAINING, 4).cells if c.source.startswith("# @title Setup:")}
    code = TransformerManager().transform_cell(cell.replace("/kaggle/input", str(tmp_path / "input")))
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "SUITE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(shell=lambda command: 0):
        names = {"commands": []}

        def system(template):
            command = re.sub(r"{([\w.]+)}", lambda match: str(eval(match[1], names)), template)
            names["commands"].append(command)
            names["_exit_code"] = shell(command)

        names["get_ipython"] = lambda: SimpleNamespace(system=system)
        exec(code, names)
        return names

    return run


def make_clone(project):
    (project / "utils" / "training").mkdir(parents=True)
    (project / "utils" / "training" / "averaging.py").touch()
    return project


@pytest.mark.parametrize("directory", [".", "swa-apex-lit", "swa-apex-lit/notebooks/deep"])
def test_the_setup_cell_finds_a_clone(directory, setup_cell, tmp_path, monkeypatch):
    project = make_clone(tmp_path / "swa-apex-lit")
    (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / directory)
    names = setup_cell()
    assert names["root"] == project
    assert sys.path[0] == str(project)
    assert names["commands"] == [], "setup.sh runs on Colab and Kaggle only"


def test_suite_root_comes_before_any_other_clone(setup_cell, tmp_path, monkeypatch):
    project = make_clone(tmp_path / "mine")
    monkeypatch.chdir(make_clone(tmp_path / "other"))
    monkeypatch.setenv("SUITE_ROOT", "../mine")
    names = setup_cell()
    assert names["root"] == project
    assert sys.path[0] == str(project), "absolute, so that changing the directory later does no harm"


@pytest.mark.parametrize("hosted", [False, True])
def test_a_suite_root_without_a_clone_is_an_error(hosted, setup_cell, tmp_path, monkeypatch):
    monkeypatch.chdir(make_clone(tmp_path / "other"))
    monkeypatch.setenv("SUITE_ROOT", str(tmp_path))
    if hosted:
        monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    message = (
        rf"no utils/training/averaging.py in SUITE_ROOT={tmp_path}; set SUITE_ROOT to a clone of https://"
    )
    with pytest.raises(FileNotFoundError, match=message):
        setup_cell(lambda command: pytest.fail("nothing is cloned or installed"))


def test_an_empty_suite_root_is_ignored(setup_cell, tmp_path, monkeypatch):
    monkeypatch.chdir(make_clone(tmp_path / "swa-apex-lit"))
    monkeypatch.setenv("SUITE_ROOT", "")
    assert setup_cell()["root"] == tmp_path / "swa-apex-lit"


@pytest.mark.parametrize("layout", ["swa-apex-lit-code", "datasets/owner/swa-apex-lit-code", "a/b/c/d"])
def test_the_setup_cell_finds_the_code_that_is_attached_on_kaggle(layout, setup_cell, tmp_path, monkeypatch):
    project = make_clone(tmp_path / "input" / layout)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    names = setup_cell()
    assert names["root"] == project
    assert names["commands"] == [f'PYTHON="{sys.executable}" bash "{project}/setup.sh"']


@pytest.mark.parametrize("variable", ["COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"])
def test_the_setup_cell_clones_in_colab_and_in_an_imported_kaggle_kernel(
    variable, setup_cell, tmp_path, monkeypatch
):
    monkeypatch.setenv(variable, "1")
    monkeypatch.chdir(tmp_path)
    clone = tmp_path / "swa-apex-lit"
    names = setup_cell(lambda command: 0 if " git clone " not in command else make_clone(clone) and 0)
    git, setup = names["commands"]
    expected = r"GIT_TERMINAL_PROMPT=0 git clone --quiet --depth 1 https://github.com/\S+ " + f'"{clone}"'
    assert re.fullmatch(expected, git)
    assert setup == f'PYTHON="{sys.executable}" bash "{clone}/setup.sh"'
    assert names["root"] == clone
    assert setup_cell()["commands"] == [setup], "the second Run All finds the clone"


def test_the_setup_cell_says_what_failed(setup_cell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = rf"in {tmp_path} or a folder above it; set SUITE_ROOT to a clone of https://github.com/"
    with pytest.raises(FileNotFoundError, match=message):
        setup_cell()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    with pytest.raises(FileNotFoundError, match=message):
        setup_cell(lambda command: 128)
    make_clone(tmp_path)
    with pytest.raises(AssertionError, match=r"setup\.sh failed; its last line above says why"):
        setup_cell(lambda command: 1)


def test_the_setup_cell_in_a_real_kernel_and_a_path_with_a_space(tmp_path, monkeypatch):
    """IPython itself expands the shell lines; git and bash are stand-ins."""
    (cell,) = {c.source for c in nbformat.read(TRAINING, 4).cells if c.source.startswith("# @title Setup:")}
    content, tools = tmp_path / "my content", tmp_path / "bin"
    content.mkdir()
    tools.mkdir()
    git = 'for last; do :; done; mkdir -p "$last/utils/training" && : >"$last/utils/training/averaging.py"'
    bash = 'case "$1" in -c) exec /bin/bash "$@" ;; esac; echo "stand-in: $PYTHON $1 ($#)"; exit ${FAIL:-0}'
    for name, script in {"git": git, "bash": bash}.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    monkeypatch.delenv("SUITE_ROOT", raising=False)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, resources={"metadata": {"path": str(content)}}).execute()
    printed = "".join(
        output["text"] for output in notebook.cells[0].outputs if output["output_type"] == "stream"
    )
    assert f"stand-in: {sys.executable} {content}/swa-apex-lit/setup.sh (1)" in printed
    monkeypatch.setenv("FAIL", "3")
    with pytest.raises(CellExecutionError, match=r"setup\.sh failed; its last line above says why"):
        NotebookClient(notebook, resources={"metadata": {"path": str(content)}}).execute()
