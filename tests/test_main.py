"""The command line: ``python -m utils``, and ``make help``."""

import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from utils.__main__ import main
from utils.config import Config
from utils.data.sources import read_table
from utils.machine import distributed, runtime
from utils.runs.artifacts import load_model
from utils.training.build import build_model

COMMANDS = ("train", "predict", "encoder", "export", "publish", "lit", "environment", "report")


def run(*arguments):
    """Run a command in this process. Returns the status, or the message, that it exits with."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    """The folder of a fold, trained from the command line."""
    output = tmp_path_factory.mktemp("main") / "output"
    settings = ["-p", "preset", "tiny", "-p", "precision", "fp32", "-p", "output_dir", output]
    assert run("train", *settings, "-p", "fold", "1", "-p", "fold", "2") is None
    return output / "tiny" / "fold-2"


@pytest.fixture
def texts(fold, tmp_path):
    """A CSV with the texts that the fold held out, and their ids; no targets."""
    held_out = pd.read_csv(fold / "predictions.csv", dtype={"id": str})["id"]
    table = read_table(runtime.ROOT / "data" / "sample" / "train.csv").set_index("id")
    path = tmp_path / "texts.csv"
    table.loc[held_out, ["excerpt"]].reset_index().to_csv(path, index=False)
    return path


def test_an_encoder_alone_is_any_encoder(fold, tmp_path, capsys):
    new = tmp_path / "mine"
    assert run("encoder", fold / "last", new) is None
    assert "The encoder is in" in capsys.readouterr().out
    trained, _ = load_model(fold / "last")
    for loaded in (
        AutoModel.from_pretrained(new),
        build_model(Config.make("tiny", encoder=str(new)))[0].encoder,
    ):
        for name, weight in trained.encoder.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
    AutoTokenizer.from_pretrained(new)
    assert "mine exists already; name a new folder." in run("encoder", fold / "last", new)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in run("encoder", fold / "last", tmp_path / "file" / "in it")
    assert "holds no model" in run("encoder", tmp_path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m utils {command} [-h]")


def test_the_help_names_every_command(capsys):
    assert run("--help") == 0
    assert tuple(re.findall(r"^    (\w+)\b", capsys.readouterr().out, flags=re.MULTILINE)) == COMMANDS


def test_a_command_is_required(capsys):
    assert run() == 2
    assert run("trian") == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "lit"])
def test_an_unknown_setting_is_refused_with_the_nearest_name(command):
    assert run(command, "-p", "fld", "3") == "InputError: 'fld' is not a parameter; did you mean 'fold'?"


def test_an_error_is_one_line_on_stderr_and_status_1():
    command = [sys.executable, "-m", "utils", "train", "-p", "preset", "tny"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runtime.ROOT, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "InputError: preset='tny' is not known; did you mean 'tiny'?\n"


def test_only_the_main_process_prints_the_error(monkeypatch):
    monkeypatch.setattr(
        distributed, "processes", lambda: SimpleNamespace(is_main_process=False, num_processes=2)
    )
    assert run("train", "-p", "fld", "3") == 1


def test_environment_prints_a_row_per_check(capsys):
    assert run("environment") == 0
    assert re.search(r"^  torch         works   \d", capsys.readouterr().out, flags=re.MULTILINE)


def test_environment_runs_without_torch():
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv[1:] = ['environment']; "
    code += "runpy.run_module('utils', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=runtime.ROOT, check=False
    )
    assert done.returncode == 1
    assert re.search(r"^  torch         broken  .*-> run: bash setup.sh$", done.stdout, flags=re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_predictions_go_to_stdout_and_are_those_of_the_fold(fold, texts, capsys):
    assert run("predict", fold / "averaged", texts) is None
    predictions = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"id": str})
    expected = pd.read_csv(fold / "predictions.csv", dtype={"id": str})
    assert predictions["id"].tolist() == expected["id"].tolist()
    assert predictions["target"].to_numpy() == pytest.approx(expected["averaged"].to_numpy(), abs=1e-5)
    assert predictions["target"].nunique() > 1


TRAIN = [
    "train",
    "-p",
    "preset",
    "tiny",
    "-p",
    "precision",
    "fp32",
    "-p",
    "epochs",
    "6",
    "-p",
    "swa_start",
    "5",
]


@pytest.mark.parametrize(
    "end",
    [
        "| head -1",
        pytest.param("> /dev/full", marks=pytest.mark.full),
        pytest.param("| cat", marks=pytest.mark.full),
    ],
)
def test_a_training_goes_on_when_nobody_reads_what_it_prints(end, tmp_path):
    command = f"set -o pipefail; {sys.executable} -m utils {' '.join(TRAIN)} -p output_dir {tmp_path} {end}"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=runtime.ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "tiny" / "fold-0" / "manifest.json").exists()


def test_predictions_that_cannot_be_printed_are_no_traceback(fold, texts, monkeypatch):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        message = run("predict", fold / "last", texts)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert message.startswith("InputError: standard output cannot be written (No space left on device); name")
    message = run("predict", fold / "last", texts, "--output", "/dev/null/scores.csv")
    assert message.startswith("InputError: /dev/null/scores.csv cannot be written (")


def test_predictions_go_to_a_file(fold, texts, tmp_path, capsys):
    path = tmp_path / "new" / "scores.csv"
    assert run("predict", fold / "last", texts, "--output", path) is None
    assert capsys.readouterr().out == ""
    assert run("predict", fold / "last", texts) is None
    assert path.read_text() == capsys.readouterr().out
    assert [file.name for file in path.parent.iterdir()] == ["scores.csv"]


def test_the_texts_may_stand_in_another_column(fold, texts, tmp_path, capsys):
    run("predict", fold / "best", texts)
    expected = pd.read_csv(io.StringIO(capsys.readouterr().out))
    renamed = tmp_path / "renamed.csv"
    pd.read_csv(texts).rename(columns={"excerpt": "essay", "id": "name"}).to_csv(renamed, index=False)
    assert run("predict", fold / "best", renamed, "--text-column", "essay") is None
    predictions = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert predictions["id"].tolist() == list(range(len(expected)))
    assert predictions["target"].tolist() == expected["target"].tolist()
    message = "InputError: the table has no column 'esay'; did you mean 'essay'?"
    assert run("predict", fold / "best", renamed, "--text-column", "esay") == message


def test_predict_says_what_is_missing(fold, texts, tmp_path):
    assert f"InputError: {tmp_path / 'none.csv'} cannot be read" in run(
        "predict", fold / "last", tmp_path / "none.csv"
    )
    assert f"InputError: {tmp_path / 'none'} holds no model" in run("predict", tmp_path / "none", texts)
    assert f"InputError: {fold} holds no model" in run("predict", fold, texts)
    other = tmp_path / "other.csv"
    other.write_text("id,words\na,some words\n")
    assert re.match(r"InputError: .*\bno column 'excerpt'", run("predict", fold / "last", other))


def test_report_prints_the_scores_and_where_they_are(fold, tmp_path, capsys):
    assert run("report", tmp_path / "executed.ipynb", fold) is None
    printed = capsys.readouterr().out
    assert str(tmp_path / "executed.ipynb") in printed
    assert str(fold / "averaged") in printed
    assert "RMSE" in printed


def test_make_help_lists_every_target_and_is_the_default():
    done = subprocess.run(["make"], capture_output=True, text=True, cwd=runtime.ROOT, check=True)
    (phony,) = re.findall(r"^\.PHONY: (.*)", (runtime.ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert re.findall(r"^  ([\w-]+) +\S", done.stdout, flags=re.MULTILINE) == phony.split()
