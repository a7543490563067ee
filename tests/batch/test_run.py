"""A batch's jobs, with trainings that are only pretended: retried, stopped, limited in time, replaced."""

import threading
import time

import pandas as pd
from filelock import FileLock

from batch import grid, summary
from batch.execute import NotebookError, NotebookStoppedError
from batch.run import Batch
from tests.batch.helpers import wait_for, write_result


def test_a_fold_that_fails_is_retried_and_stops_no_other(workspace):
    jobs, calls = grid.expand({"preset": "tiny", "fold": "0-3"}), []

    def train(job, stopped):
        fold = job.config.fold
        calls.append(fold)
        if fold == 1 and calls.count(1) < 3:
            raise NotebookError("a moment's trouble")
        if fold == 2:
            raise RuntimeError("broken")
        write_result(job)

    run = Batch(jobs, train, at_once=2, retries=2)
    run.run()
    assert [(status.state, status.tries, status.error) for status in run.statuses] == [
        ("finished", 1, ""),
        ("finished", 3, ""),
        ("failed", 3, "RuntimeError: broken"),
        ("finished", 1, ""),
    ]
    summary.write_summary(run.statuses, [], workspace / "summary.csv")
    table = pd.read_csv(workspace / "summary.csv")
    assert list(table["state"]) == ["finished", "finished", "failed", "finished"]
    assert list(table["rmse_last"].fillna(-1)) == [0.5, 0.5, -1, 0.5]
    assert table["error"][2] == "RuntimeError: broken"

    calls.clear()
    again = Batch(grid.expand({"preset": "tiny", "fold": "0-3"}), train, at_once=4, retries=0)
    again.run()
    assert calls == [2], "what is finished is not trained again"
    states = [status.state for status in again.statuses]
    assert states == ["finished before", "finished before", "failed", "finished before"]


def test_the_error_of_a_notebook_is_its_message_alone(workspace):
    def train(job, stopped):
        raise NotebookError("InputError: lr is too high")

    run = Batch(grid.expand({"preset": "tiny", "fold": 0}), train, at_once=1, retries=1)
    run.run()
    status = run.statuses[0]
    assert (status.state, status.tries, status.error) == ("failed", 2, "InputError: lr is too high")


def test_so_many_run_at_once_and_no_more(workspace):
    running, most, lock, three = 0, [], threading.Lock(), threading.Barrier(3)

    def train(job, stopped):
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        if len(most) <= 3:
            three.wait(timeout=60)
        time.sleep(0.05)  # in which a fourth would come, were there one
        with lock:
            running -= 1
        write_result(job)

    Batch(grid.expand({"preset": "tiny", "seed": "1,2"}), train, at_once=3, retries=0).run()
    assert max(most) == 3
    assert len(most) == 10


def test_a_stop_ends_what_runs_and_starts_nothing_more(workspace):
    def train(job, stopped):
        run.stop.set()
        wait_for(stopped)
        raise NotebookStoppedError("stopped by SIGINT")

    run = Batch(grid.expand({"preset": "tiny", "fold": "0-2"}), train, at_once=1, retries=5)
    run.run()
    statuses = [(status.state, status.tries, status.error) for status in run.statuses]
    assert statuses == [("stopped", 1, "stopped by SIGINT"), ("stopped", 0, ""), ("stopped", 0, "")]


def test_a_fold_that_is_stopped_while_it_draws_its_last_plots_is_finished(workspace):
    def train(job, stopped):
        run.stop.set()
        write_result(job)
        raise NotebookStoppedError("KeyboardInterrupt")

    run = Batch(grid.expand({"preset": "tiny", "fold": "0"}), train, at_once=1, retries=0)
    run.run()
    assert (run.statuses[0].state, run.statuses[0].error) == ("finished", "")


def test_a_fold_whose_notebook_fails_after_the_training_is_retried(workspace):
    def train(job, stopped):
        write_result(job)
        raise NotebookError("the plots failed")

    run = Batch(grid.expand({"preset": "tiny", "fold": "0"}), train, at_once=1, retries=1)
    run.run()
    status = run.statuses[0]
    assert (status.state, status.tries, status.error) == ("failed", 2, "the plots failed")


def test_a_time_limit_is_no_failure(workspace):
    def train(job, stopped):
        write_result(job, finished=False)

    run = Batch(grid.expand({"preset": "tiny", "fold": 0}), train, at_once=1, retries=3)
    run.run()
    assert (run.statuses[0].state, run.statuses[0].tries) == ("stopped", 1)
    assert "time limit" in run.statuses[0].error


def test_an_empty_folder_is_a_failure(workspace):
    jobs = grid.expand({"preset": "tiny", "fold": 0})
    run = Batch(jobs, lambda job, stopped: None, at_once=1, retries=0)
    run.run()
    assert run.statuses[0].state == "failed"
    assert "do all machines share" in run.statuses[0].error


def test_a_fold_that_is_trained_anew_is_resumed_once_it_has_begun(workspace):
    """Until then, the old fold stays, and is no result of this training."""
    (job,) = grid.expand({"preset": "tiny", "fold": 0, "retrain": True, "resume_from": "old"})
    write_result(job)
    trained = []

    def train(job, stopped):
        trained.append(job)
        if len(trained) == 1:
            raise NotebookError("the encoder cannot be loaded")
        write_result(job, finished=len(trained) == 3, started="2026-01-02")
        if len(trained) == 2:
            (job.folder / "manifest.json").unlink()
            raise NotebookError("a dead kernel")

    run = Batch([job], train, at_once=1, retries=2)
    run.run()
    assert (run.statuses[0].state, run.statuses[0].tries) == ("finished", 3)
    assert [job.config.retrain for job in trained] == [True, True, False]
    assert trained[2].parameters == {"preset": "tiny", "fold": 0, "retrain": False, "resume_from": ""}

    failed = Batch([job], lambda job, stopped: None, at_once=1, retries=0)
    failed.run()
    assert failed.statuses[0].state != "finished", "the old result is no result of this training"
    assert job.finished, "it was removed before there was another"


def test_a_damaged_fold_is_not_skipped_as_finished(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 0})
    write_result(job)
    (job.folder / "result.json").write_text("{}")
    run = Batch([job], lambda job, stopped: None, at_once=1, retries=0)
    run.run()
    assert run.statuses[0].state == "failed"
    assert "fold-0/result.json is missing, cut short or altered; copy it again" in run.statuses[0].error


def test_a_damaged_result_and_a_second_batch_stop_no_other_fold(workspace):
    jobs = grid.expand({"preset": "tiny", "fold": "0-2"})
    write_result(jobs[0])
    (jobs[0].folder / "result.json").write_text("{")
    jobs[1].run_folder.mkdir(exist_ok=True)
    with FileLock(jobs[1].run_folder / ".02_fold1.ipynb.lock"):
        run = Batch(jobs, lambda job, stopped: write_result(job), at_once=1, retries=1)
        run.run()
    assert [status.state for status in run.statuses] == ["failed", "failed", "finished"]
    assert "retrain=True (-p retrain True)" in run.statuses[0].error
    assert "another batch is training it" in run.statuses[1].error
