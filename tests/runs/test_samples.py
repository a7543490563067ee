"""What is shown while a fold trains: always the same rows, and nothing that changes the training."""

import io
import json
import random
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm.auto import tqdm

from tests.lit.label_runs import KINDS, label_table
from tests.runs.helpers import Stop, assert_same, contents, stop_after
from tests.tasks.questions import make_questions
from utils import Config, add_folds, fit_fold, load_table
from utils.machine import runtime
from utils.runs import artifacts, samples
from utils.runs.samples import Sampler, Samples, choose_rows, trim
from utils.tasks import make_task
from utils.training.loop import evaluate
from utils.training.setup import prepare


@pytest.fixture
def watched(monkeypatch):
    """Somebody is watching, as in a terminal."""
    monkeypatch.setattr(runtime, "progress_wanted", lambda: True)


def read(path):
    """A file of samples, whose every line must be strict JSON."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


# --- which rows -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["1", "2", "3", "10"]), min_size=1, max_size=30), st.integers(1, 8))
def test_the_rows_are_spread_over_the_strata_and_always_the_same(strata, number):
    series = pd.Series(strata)
    rows = choose_rows(series, number)
    assert rows.tolist() == choose_rows(series.set_axis(range(100, 100 + len(strata))), number).tolist()
    assert len(set(rows)) == len(rows) == min(number, len(strata))
    chosen = [strata[row] for row in rows]
    assert chosen == sorted(chosen, key=int)
    counts, available = series[rows].value_counts(), series.value_counts()
    if number >= len(available):
        assert set(counts.index) == set(available.index)
        fewest = counts.min()
        assert all(
            counts[name] <= fewest + 1 or fewest == available[counts.idxmin()] for name in counts.index
        )
    elif number > 1:
        assert {min(strata, key=int), max(strata, key=int)} <= set(chosen)


def test_rows_of_several_labels_are_spread_over_what_they_have_in_common():
    rows = choose_rows(pd.DataFrame({"x": [0, 0, 0, 1, 1], "y": [0, 0, 0, 0, 1]}), 3)
    assert {3, 4} < set(rows)


# --- what is shown ------------------------------------------------------------------------------------------

ASPECTS = {"preset": "aspects", "pooling": "cls_layers"}
TASKS = {
    "one number": ({}, {"target", "raw"}, r"target -?\d\.\d\d, raw -?\d\.\d\d"),
    "several numbers": (
        {"target_columns": "target,level"},
        {"level target", "target raw"},
        r"raw -?\d.*, -?\d",
    ),
    "binary": (
        KINDS["binary"],
        {"raw no", "raw yes", "raw label"},
        r"target (yes|no), raw (yes|no) \(0\.\d\d\)",
    ),
    "multiclass": (
        KINDS["multiclass"],
        {"target", "raw label"},
        r"target (easy|middle|hard), raw \w+ \(0\.\d\d\)",
    ),
    "multilabel": (
        KINDS["multilabel"],
        {"easy target", "hard raw"},
        r"raw easy \(\d\.\d\d\), hard \(\d\.\d\d\)",
    ),
    "ordinal": (KINDS["ordinal"], {"target", "raw 3"}, r"target \d, raw \d \(0\.\d\d\)"),
    "aspects": (ASPECTS, {"target", "raw label"}, r"target \w+, raw \w+ \(0\.\d\d\) · .*\[[^]]+\]"),
    "spans": (
        {"preset": "questions"},
        {"target answer", "raw answer"},
        r"target ('[\w ]+'|no answer), raw '.*\{",
    ),
}


def make_samples(kind, folder, number=3):
    options = TASKS[kind][0]
    if kind == "spans":
        make_questions().to_csv(folder / "data.csv", index=False)
    elif kind != "aspects":
        label_table().to_csv(folder / "data.csv", index=False)
    if kind != "aspects":
        options = {"data": str(folder / "data.csv"), **options}
    config = Config.make(**{"preset": "tiny", "n_folds": 4, **options, "max_rows": 0})
    table = add_folds(load_table(config), config)
    task = make_task(config, table, table[table["fold"] != 0])
    held_out = table[table["fold"] == 0]
    rows = held_out.iloc[choose_rows(task.strata(held_out), number)]
    return task, Samples(task, rows, folder / "samples.jsonl")


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_shows_its_samples(kind, tmp_path, watched, capsys):
    task, shown = make_samples(kind, tmp_path)
    guess = task.guess(shown.targets)
    shown.show(10, 0.5, {"raw": guess})
    shown.show(20, 1.0, {"raw": guess, "averaged": guess})
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 6
    _, columns, pattern = TASKS[kind]
    ids = shown.rows[task.config.id_column].tolist()
    for line, name in zip(output[:3], ids, strict=True):
        assert line.startswith(f"step   10 · {name} · target ")
        assert re.search(pattern, line), line
        assert len(line) <= 200
    assert all(", averaged " in line for line in output[3:])
    records = read(shown.path)
    assert [(record["step"], record["epoch"]) for record in records] == [(10, 0.5)] * 3 + [(20, 1.0)] * 3
    assert [record["id"] for record in records] == ids * 2
    assert columns | {"text"} <= set(records[0])
    assert any(name.startswith("averaged") or name.endswith("averaged") for name in records[-1])


def test_nobody_watches_under_papermill_and_what_is_missing_is_null(tmp_path, capsys):
    _, shown = make_samples("several numbers", tmp_path, number=2)
    shown.targets[0, 1] = np.nan
    shown.show(1, 0.1, {"raw": np.array([[np.inf, 2.0], [3.0, 4.0]])})
    assert capsys.readouterr().out == ""
    first, second = read(shown.path)
    assert first["level target"] is None
    assert first["target raw"] is None
    assert second["target raw"] == 3.0


def test_a_text_neither_moves_the_cursor_nor_breaks_a_line(tmp_path, watched, capsys):
    _, shown = make_samples("one number", tmp_path, number=1)
    shown.rows = shown.rows.assign(excerpt="one\x1b[2Jtwo\r\nthree\u2028four \u202efive\ud800" + "x" * 300)
    shown.show(1, 0.1, {"raw": np.zeros((1, 1))})
    (line,) = capsys.readouterr().out.splitlines()
    assert "one [2Jtwo three" in line
    assert line.isprintable()
    assert "four" in read(shown.path)[0]["text"]


def test_lines_stand_above_a_progress_bar(tmp_path, watched, monkeypatch):
    """What a terminal shows: \\r goes back to the line's beginning, and a line ends where another begins."""
    _, shown = make_samples("one number", tmp_path)
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with tqdm(total=2, leave=False, ncols=60) as bar:
        bar.update()
        shown.show(1, 0.1, {"raw": np.zeros((3, 1))})
        bar.update()
    screen = []
    for line in terminal.getvalue().split("\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        screen.append(cells.rstrip())
    lines = [line for line in screen if "target" in line]
    assert len(lines) == 3
    assert all(line.startswith("step ") and "%|" not in line for line in lines)


# --- in a training ------------------------------------------------------------------------------------------

#: 12 steps, evaluated at every third.
SHORT = {
    "epochs": 2,
    "swa_start": 0.5,
    "swa_every": 2,
    "eval_every": 3,
    "batch_size": 8,
    "encoder_dropout": 0.1,
}


def make_config(output, **options):
    return Config.make(
        "tiny", precision="fp32", output_dir=str(output), **{**SHORT, "samples_every": 1, **options}
    )


@pytest.fixture(scope="module")
def table():
    config = make_config("output")
    return add_folds(load_table(config), config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, table):
    """A fold whose samples were shown after every step."""
    return fit_fold(make_config(tmp_path_factory.mktemp("whole")), table)


def test_the_training_is_the_same_to_the_last_bit(whole, table, tmp_path):
    shown = contents(whole)
    without = contents(fit_fold(make_config(tmp_path, samples=0, samples_every=0), table))
    pd.testing.assert_frame_equal(without.pop("history"), shown.pop("history"), check_exact=True)
    assert "samples.jsonl" not in without
    assert shown.pop("samples.jsonl")
    assert without == shown


def test_the_samples_of_an_evaluation_are_its_predictions(whole):
    records = pd.DataFrame(read(whole / "samples.jsonl"))
    assert records["step"].tolist() == list(np.repeat(range(1, 13), 4))
    assert records["id"].tolist() == records["id"][:4].tolist() * 12
    has_average = records["averaged"].notna().groupby(records["step"]).all()
    assert has_average[has_average].index.tolist() == [6, 9, 12], (
        "between evaluations the raw weights are shown"
    )
    last = records[records["step"] == 12].set_index("id")
    predictions = artifacts.read_predictions(whole).set_index("id").loc[last.index]
    for column, name in {"raw": "last", "averaged": "averaged", "target": "target"}.items():
        assert last[column].tolist() == predictions[name].tolist()
    assert "samples.jsonl" in artifacts.verify(whole)["files"]


def test_a_killed_fold_repeats_no_line_and_lacks_none(whole, table, tmp_path, monkeypatch):
    config = make_config(tmp_path, save_every=2)
    path = artifacts.fold_folder(config) / "samples.jsonl"
    for step in (6, 10):
        restore = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, table)
        restore()
        with path.open("ab") as file:  # it got further, and was killed while it wrote
            file.write(b'{"step": 99, "id": "x"}\n{"step": 100, "epo')
    assert_same(whole, fit_fold(config, table))
    assert (whole / "samples.jsonl").read_bytes() == path.read_bytes()


def test_trimming_keeps_every_byte_of_what_it_keeps(tmp_path):
    path = tmp_path / "samples.jsonl"
    trim(path, 3)
    assert not path.exists()
    kept = '{"step": 1, "text": "é\u2028"}\n{"step":3}\n'.encode()
    path.write_bytes(kept + b'{"step": 4}\n{}\n5\n{"st')
    trim(path, 3)
    assert path.read_bytes() == kept
    path.write_bytes(kept + b'{"st')
    assert artifacts.read_samples(tmp_path)["step"].tolist() == [1, 3]


def test_between_evaluations_the_same_is_predicted(tiny, tiny_table, tmp_path):
    training = prepare(tiny(samples_every=1), tiny_table, 0)
    sampler = Sampler(training, tiny_table, tmp_path, None)
    expected = evaluate(training)["last"][sampler.numbers]
    np.testing.assert_allclose(sampler.predict(), expected, rtol=1e-5, atol=1e-6)


def test_looking_leaves_the_random_states_and_the_mode_as_they_were(tiny, tiny_table, tmp_path, monkeypatch):
    """Whatever an encoder draws when it predicts."""
    training = prepare(tiny(samples_every=1), tiny_table, 0)
    seen = []

    def draw(training, model, examples):
        model.eval()
        seen.append((torch.rand(1).item(), np.random.rand(), random.random(), len(examples)))
        return np.zeros((len(examples), 1))

    monkeypatch.setattr(samples, "predict", draw)
    sampler = Sampler(training, tiny_table, tmp_path, None)
    for mode in (True, False):
        training.wrapped.train(mode)
        sampler.look(evaluated=False)
        assert training.wrapped.training is mode
    assert seen[0] == seen[1]
    assert seen[0][-1] == 4


def test_of_several_processes_one_shows_and_writes(tiny, tiny_table, watched, capfd):
    options = {"samples": 3, "samples_every": 2, "epochs": 1, "averaging": "none", "devices": 2}
    folder = fit_fold(tiny(**options), tiny_table)
    lines = re.findall(r"step +(\d+) · (\w+) · target", capfd.readouterr().out)
    records = [(record["step"], record["id"]) for record in read(folder / "samples.jsonl")]
    assert [step for step, _ in records] == [2, 2, 2, 3, 3, 3]
    assert records == [(int(step), name) for step, name in lines]
