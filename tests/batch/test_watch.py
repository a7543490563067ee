"""What a batch shows and writes of its jobs."""

import threading
from types import SimpleNamespace

import pandas as pd
import pytest

from batch import grid, summary, watch
from batch.execute import NotebookError
from tests.batch.helpers import write_result
from utils.machine import runtime


@pytest.fixture
def accuracy(monkeypatch):
    """Tasks that are scored with another metric than RMSE."""
    metric = SimpleNamespace(name="accuracy", label="Accuracy", higher_is_better=True)
    for module in (watch, summary):
        monkeypatch.setattr(module, "make_task", lambda config: SimpleNamespace(metric=metric))


def write_history(job, **columns):
    job.folder.mkdir(parents=True, exist_ok=True)
    times = {"epoch": [1.0, 2.0], "seconds": [60.0, 120.0]}
    pd.DataFrame({**times, **columns}).to_csv(job.folder / "history.csv")


def headers(table):
    return [column.header for column in table.columns]


def test_the_table_shows_the_status_of_each_fold(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 1, "epochs": 4})
    status = watch.Status(job)
    assert watch.row_of(status, "") == ["tiny, fold 1", "waiting", "", "", "", ""]
    status.state, status.tries = watch.State.TRAINING, 2
    assert watch.row_of(status, "") == ["tiny, fold 1", "training, try 2", "", "", "", ""]
    write_history(job, rmse=[0.7, 0.61234], averaged_rmse=[float("nan"), 0.6])
    expected = ["tiny, fold 1", "training, try 2", "2.00 of 4", "0.6123", "0.6000", "2 min"]
    assert watch.row_of(status, "") == expected
    mirror_url = f"file://{workspace}/output"
    assert watch.row_of(status, mirror_url) == expected, "read from where a cluster's machines write"
    table = watch.live_table([status], "")
    assert headers(table) == ["fold", "state", "epoch", "RMSE raw", "averaged", "time left"]
    assert len(table.rows) == 1


def test_the_table_asks_the_task_for_its_metric(workspace, accuracy):
    (job,) = grid.expand({"preset": "tiny", "fold": 1, "epochs": 4})
    write_history(job, accuracy=[0.5, 0.75], averaged_accuracy=[float("nan")] * 2, rmse=[1.0, 1.0])
    status = watch.Status(job, state=watch.State.FINISHED)
    assert watch.row_of(status, "")[2:] == ["2.00 of 4", "0.7500", "", ""]
    assert "Accuracy raw" in headers(watch.live_table([status], ""))


def test_a_log_has_a_line_for_each_change(workspace, capsys):
    (job,) = grid.expand({"preset": "tiny", "fold": 1})
    status, done = watch.Status(job), threading.Event()
    done.set()
    watch.log_changes([status, status], "", done)
    assert capsys.readouterr().out == "tiny, fold 1 · waiting\n"


def test_brackets_and_colons_in_the_name_of_a_run_mean_nothing(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 1, "run": "[red]:smile:"})
    with watch.console.capture() as capture:
        watch.console.print(watch.live_table([watch.Status(job)], ""), width=120)
    assert "[red]:smile:, fold 1" in capture.get()


def test_the_summary_keeps_other_folds(workspace):
    path = workspace / "summary.csv"
    for folds in ("0-1", "1-2"):
        jobs = grid.expand({"preset": "tiny", "fold": folds})
        summary.write_summary([watch.Status(job, state=watch.State.FAILED) for job in jobs], [], path)
    assert list(pd.read_csv(path)["fold"]) == [0, 1, 2]


def test_the_summary_names_its_columns_after_the_metric(workspace, accuracy):
    (job,) = grid.expand({"preset": "tiny", "fold": 1})
    job.folder.mkdir(parents=True)
    scores = '{"last": {"accuracy": 0.5, "f1": 0.4}, "averaged": {"accuracy": 0.75, "f1": 0.7}}'
    (job.folder / "result.json").write_text(f'{{"scores": {scores}, "metric": {{}}, "seconds": 1}}')
    path = workspace / "summary.csv"
    summary.write_summary([watch.Status(job, state=watch.State.FINISHED)], ["preset"], path)
    table = pd.read_csv(path)
    columns = ["run", "fold", "preset", "state", "tries", "accuracy_last", "accuracy_averaged", "seconds"]
    assert list(table)[: len(columns)] == columns
    assert table["accuracy_averaged"][0] == 0.75


def test_a_missing_test_set_and_a_failed_notebook_are_reported(workspace, monkeypatch, capsys):
    jobs = grid.expand({"preset": "tiny", "fold": "0,1", "data": "mine.csv", "lr": "0.5"})
    (workspace / "mine.csv").touch()
    monkeypatch.chdir(workspace)
    for job in jobs:
        write_result(job)
    executed = []

    def fail(name, output, parameters, environment, stopped):
        executed.append((name, parameters))
        raise NotebookError("no memory")

    monkeypatch.setattr(summary.execute, "run_notebook", fail)
    errors = summary.evaluate(jobs, lambda: False)
    parameters = {"preset": "tiny", "data": "mine.csv", "lr": 0.5, "low_precision": False}
    assert executed == [("03_swa_evaluation", parameters)]
    notebook = runtime.display_path(jobs[0].run_folder / "03_swa_evaluation.ipynb")
    assert errors == {notebook: "no memory"}
    assert "notebook 06 is skipped: there is no" in capsys.readouterr().out
    assert summary.evaluate(jobs, lambda: True) == {}
    assert len(executed) == 1, "a stopped batch executes nothing more"
