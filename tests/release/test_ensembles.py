"""Predicting with several folders, and from files of any size."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tests.release.helpers import PARAMETERS, assert_same_answers
from utils import predict
from utils.__main__ import main
from utils.config import InputError
from utils.data import reading
from utils.machine import runtime
from utils.release import predict as predicting
from utils.release.predict import predict_file


@pytest.mark.parametrize("kind", PARAMETERS)
def test_several_folders_are_combined_as_the_task_does(kind, random_weights, monkeypatch):
    one, rows = random_weights(kind)
    other, _ = random_weights(kind, seed=1)
    combined, task = [], type(predicting.Predictor(one).task)
    combine = task.combine
    monkeypatch.setattr(task, "combine", lambda self, all: combined.append(all) or combine(self, all))
    ensemble, alone = predict([one, other], rows), predict(one, rows)
    assert list(ensemble)[: len(alone.columns)] == list(alone)
    assert len(combined[-1]) == 2
    spreads = [name for name in ensemble if name.split()[-1] == "spread"]
    assert len(spreads) == max(1, len(ensemble.columns) - len(alone.columns))
    assert (ensemble[spreads].to_numpy() > 0).any()
    twice = predict([one, one], rows)
    assert_same_answers(twice.drop(columns=spreads), alone)
    assert (twice[spreads].to_numpy() < 1e-12).all()


def test_the_spread_is_the_standard_deviation_of_numbers_and_of_probabilities(random_weights):
    for kind, column in (("numbers", "target"), ("multilabel", "easy")):
        folders = [random_weights(kind, seed)[0] for seed in range(2)]
        rows = random_weights(kind)[1]
        values = np.stack([predict(folder, rows)[column] for folder in folders])
        name = "easy spread" if kind == "multilabel" else "spread"
        ensemble = predict(folders, rows)
        np.testing.assert_allclose(ensemble[name], values.std(axis=0), atol=1e-9)
        np.testing.assert_allclose(ensemble[column], values.mean(axis=0), atol=1e-9)


def test_folders_of_other_questions_are_refused(random_weights):
    one, rows = random_weights("numbers")
    for kind in ("binary", "several numbers", "pairs"):
        with pytest.raises(InputError, match=r"answers another question than .*; name folders of one run"):
            predict([one, random_weights(kind)[0]], rows)
    with pytest.raises(InputError, match="name at least one folder"):
        predict([], rows)


@pytest.mark.parametrize("kind", ["numbers", "aspects", "spans"])
@pytest.mark.parametrize("large", [False, True])
def test_a_file_in_pieces_gets_the_answers_of_the_whole(kind, large, random_weights, tmp_path, monkeypatch):
    folder, rows = random_weights(kind)
    path = tmp_path / "texts.csv"
    rows.to_csv(path, index=False, encoding="utf-8-sig" if kind == "numbers" else "utf-8")
    expected = predict(folder, reading.read_table(path))
    monkeypatch.setattr(predicting, "PIECE", 5)
    if large:
        monkeypatch.setattr(reading, "HEAD", 600)
        monkeypatch.setattr(reading, "read_table", None)
    pieces = list(predict_file([folder], path))
    assert [len(piece) for piece in pieces] == [5, 5, 2]
    assert_same_answers(pd.concat(pieces, ignore_index=True), expected)


@pytest.mark.parametrize("large", [False, True])
def test_rows_are_counted_through_all_pieces_and_checked_before_any_is_predicted(
    large, random_weights, tmp_path, monkeypatch
):
    folder, rows = random_weights("numbers")
    monkeypatch.setattr(predicting, "PIECE", 5)
    if large:
        monkeypatch.setattr(reading, "HEAD", 600)
    path = tmp_path / "texts.csv"
    rows[["excerpt"]].to_csv(path, index=False)
    ids = pd.concat(predict_file([folder], path))["id"]
    assert ids.tolist() == [str(number) for number in range(12)]
    rows.assign(id=rows["id"].where(rows.index != rows.index[8], "")).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"column 'id' holds an empty id in row 9: ''"):
        next(predict_file([folder], path))
    rows.assign(id=[f"r{number % 11}" for number in range(12)]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"repeats an id in row 12; give each row its own"):
        next(predict_file([folder], path))
    rows.assign(excerpt=rows["excerpt"].where(rows["id"] != rows["id"].iloc[10], "")).to_csv(
        path, index=False
    )
    with pytest.warns(UserWarning, match="1 of 2 texts are empty, in row 11 ") as said:
        list(predict_file([folder], path))
    assert len(said) == 1


# --- the command line ---------------------------------------------------------------------------------------


def test_standard_input_is_read_as_a_file_is(random_weights, tmp_path, monkeypatch, capsys):
    folder, rows = random_weights("binary")
    text = rows.to_csv(index=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder), str(folder), "-"])
    assert stopped.value.code is None
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"id": str})
    assert_same_answers(printed, predict([folder, folder], rows))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"%PDF-1.4 ")))
    with pytest.raises(SystemExit, match="standard input is a PDF document"):
        main(["predict", str(folder), "-"])


def test_a_file_appears_whole_or_not_at_all(random_weights, tmp_path, monkeypatch):
    folder, rows = random_weights("numbers")
    path, output = tmp_path / "texts.csv", tmp_path / "scores.csv"
    rows.to_csv(path, index=False)
    monkeypatch.setattr(predicting, "PIECE", 5)
    write, calls = predicting.Predictor.predict, []

    def fail_at_last(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise InputError("stopped")
        return write(self, *arguments)

    monkeypatch.setattr(predicting.Predictor, "predict", fail_at_last)
    with pytest.raises(SystemExit, match="stopped"):
        main(["predict", str(folder), str(path), "--output", str(output)])
    assert [file.name for file in tmp_path.iterdir()] == ["texts.csv"]
    with pytest.raises(SystemExit):
        main(["predict", str(folder), str(path), "--output", str(output)])
    assert_same_answers(pd.read_csv(output, dtype={"id": str}), predict(folder, rows))


@pytest.mark.full
def test_memory_does_not_grow_with_the_file(random_weights, tmp_path):
    folder, rows = random_weights("numbers")
    text, peaks = " ".join(rows["excerpt"])[:6000], []
    for count in (6000, 30_000):
        path = tmp_path / f"{count}.csv"
        pd.DataFrame({"id": range(count), "excerpt": text}).to_csv(path, index=False)
        code = "import sys, resource; from utils.__main__ import main\ntry: main(sys.argv[1:])\n"
        code += "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        arguments = ["predict", folder, path, "--output", tmp_path / "scores.csv"]
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=runtime.ROOT, check=True)
        peaks.append(int(done.stderr.split()[-1]) / 2**10)  # MiB
    assert path.stat().st_size > 150 * 2**20
    assert peaks[1] < peaks[0] + 40, peaks
