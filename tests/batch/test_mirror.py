"""A run's copy at another address: what is copied, in which order, and what a broken copy leaves."""

import re
import signal
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from batch import execute, grid
from batch.mirror import Mirror, synchronize
from tests.batch.helpers import LONG, files, finish, has_state, start, wait_for, write
from tests.runs.helpers import assert_same
from utils.config import InputError
from utils.runs.seal import seal

STATES = ["fold-0/state/step-1/manifest.json", "fold-0/state/step-1/model.safetensors"]


def test_a_mirror_copies_what_has_changed_and_half_a_state_is_not_read(tmp_path):
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    mirror = Mirror(here, f"file://{there}")
    write(here, *STATES, "fold-0/state/step-2/manifest.json", "fold-0/.new/part", "fold-1/result.json")
    mirror.push("fold-0")
    assert files(there) == {*STATES, "fold-0/state/step-2/manifest.json"}

    (here / "fold-0" / "state" / "step-2" / "manifest.json").unlink()
    write(here, "fold-0/state/step-2/model.safetensors")
    write(here, STATES[1], content="changed")
    mirror.push("fold-0")
    assert files(there) == {*STATES, "fold-0/state/step-2/model.safetensors"}
    assert (there / STATES[1]).read_text() == "changed"

    Mirror(other, f"file://{there}").pull("fold-0")
    assert files(other / "fold-0") == {name.removeprefix("fold-0/") for name in STATES}


def test_of_a_fold_the_copy_that_is_further_on_stays(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    mirror = Mirror(here, f"file://{there}")
    write(there, *STATES, "fold-0/history.csv", content="old")
    write(here, "fold-0/state/step-2/manifest.json", "fold-0/history.csv", content="new")
    mirror.pull("fold-0")
    assert (here / "fold-0" / "history.csv").read_text() == "new"
    assert mirror.is_ahead("fold-0")
    mirror.push("fold-0")
    assert (there / "fold-0" / "history.csv").read_text() == "new"
    assert not mirror.is_ahead("fold-0")

    other = Mirror(tmp_path / "other", f"file://{there}")
    write(tmp_path / "other", *STATES, "fold-0/history.csv", content="old")
    other.pull("fold-0")
    assert (tmp_path / "other" / "fold-0" / "history.csv").read_text() == "new"
    write(there, "fold-0/result.json")
    seal(there / "fold-0", ["result.json"])
    mirror.pull("fold-0")
    assert (here / "fold-0" / "result.json").exists()
    assert not (here / "fold-0" / "state").exists(), "a finished fold needs none"


def test_a_finished_fold_leaves_no_state_that_another_mirror_had_copied(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write(there, *STATES)
    write(here, "fold-0/result.json")
    Mirror(here, f"file://{there}").push("fold-0")
    assert files(there) == {"fold-0/result.json"}


def test_a_pull_that_breaks_off_leaves_what_was_there(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    write(there, "fold-0/result.json", "fold-0/averaged/model.safetensors", content="new")
    write(here, *STATES)
    real = LocalFileSystem.get_file

    def broken(self, path, target):
        if "averaged" in path:
            raise ConnectionError
        real(self, path, target)

    monkeypatch.setattr(LocalFileSystem, "get_file", broken)
    with pytest.raises(ConnectionError):
        Mirror(here, f"file://{there}").pull("fold-0")
    assert files(here / "fold-0") == {name.removeprefix("fold-0/") for name in STATES}
    monkeypatch.undo()
    Mirror(here, f"file://{there}").pull("fold-0")
    assert files(here / "fold-0") == {"result.json", "averaged/model.safetensors"}


def test_what_makes_a_state_whole_is_copied_last(tmp_path, monkeypatch):
    state = "fold-0/state/step-1"
    write(
        tmp_path / "here",
        *(f"{state}/{name}" for name in ("manifest.json", "average.safetensors", "rest.pt")),
    )
    write(tmp_path / "here", "fold-0/result.json")
    order, real = [], LocalFileSystem.put_file

    def put(self, source, target, **options):
        order.append(Path(source).name)
        real(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", put)
    Mirror(tmp_path / "here", f"file://{tmp_path}/there").push("fold-0")
    assert set(order[:2]) == {"average.safetensors", "rest.pt"}
    assert set(order[2:]) == {"manifest.json", "result.json"}


def test_a_moment_without_a_network_does_not_stop_a_training(workspace, monkeypatch):
    """The training is a stand-in that lasts until something has been pushed."""
    (job,) = grid.expand({"preset": "tiny", "fold": 0})
    write(job.run_folder, "fold-0/run.json")
    tries, real = [], LocalFileSystem.put_file

    def put(self, source, target, **options):
        tries.append(source)
        if len(tries) == 1:
            raise RuntimeError("no network")
        real(self, source, target, **options)

    def run_notebook(name, output, parameters, environment, stopped, tick):
        tick()

    monkeypatch.setattr(LocalFileSystem, "put_file", put)
    monkeypatch.setattr(execute, "run_notebook", run_notebook)
    execute.train(job, {}, f"file://{workspace}/there")
    assert len(tries) == 2
    assert files(workspace / "there" / "tiny") == {"fold-0/run.json"}


def test_a_fold_that_fails_is_copied_too(workspace, monkeypatch):
    (job,) = grid.expand({"preset": "tiny", "fold": 0})

    def fail(*arguments, tick):
        write(job.run_folder, "fold-0/run.json", "02_fold0.ipynb")
        raise execute.NotebookError("trouble")

    monkeypatch.setattr(execute, "run_notebook", fail)
    with pytest.raises(execute.NotebookError):
        execute.train(job, {}, f"file://{workspace}/there")
    assert files(workspace / "there" / "tiny") == {"fold-0/run.json", "02_fold0.ipynb"}


def test_a_damaged_finished_fold_is_not_pulled_and_retraining_is_the_way_out(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 0})
    there = workspace / "there" / "tiny"
    write(there, "fold-0/result.json", "fold-0/averaged/model.safetensors")
    seal(there / "fold-0")
    write(there, "fold-0/averaged/model.safetensors", content="altered")
    url = f"file://{workspace}/there"
    words = "there/tiny/fold-0/averaged/model.safetensors is missing, cut short or altered; .*retrain=True"
    with pytest.raises(InputError, match=words):
        synchronize([job], url)
    assert not job.folder.exists()
    synchronize([job.replace(retrain=True)], url)


def test_a_fold_that_was_killed_after_its_seal_is_cleaned_up_and_completed_at_the_mirror(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 0})
    there = workspace / "there" / "tiny"
    for folder in (job.run_folder, there):
        write(folder, *STATES, "fold-0/history.csv")
    write(job.run_folder, "fold-0/result.json")
    seal(job.folder, ["result.json", "history.csv"])
    synchronize([job], f"file://{workspace}/there")
    whole = {"fold-0/result.json", "fold-0/history.csv", "fold-0/manifest.json"}
    assert files(there) == files(job.run_folder) - {".fold-0.lock"} == whole


def test_a_new_training_is_not_replaced_by_the_old_one_at_the_mirror(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 0, "retrain": True})
    there = workspace / "there" / "tiny"
    mirror = Mirror(job.run_folder, f"file://{there}")
    write(there, "fold-0/run.json", content='{"started": "2026-01-01"}')
    write(there, "fold-0/result.json")
    seal(there / "fold-0")
    mirror.push("fold-0")
    assert len(files(there)) == 3, "a fold that never began here has removed its copy"
    write(job.run_folder, "fold-0/run.json", content='{"started": "2026-01-02"}')
    mirror.pull("fold-0")
    assert files(job.folder) == {"run.json"}
    mirror.push("fold-0")
    assert files(there) == {"fold-0/run.json"}


def test_the_old_seal_goes_before_the_new_files_come(workspace, monkeypatch):
    """Broken off in between, the copy must not look like a finished fold that is damaged."""
    there = workspace / "there"
    write(there, "fold-0/result.json")
    seal(there / "fold-0")
    write(workspace / "here", "fold-0/run.json", "fold-0/best/model.safetensors")

    def broken(self, source, target, **options):
        raise ConnectionError

    monkeypatch.setattr(LocalFileSystem, "put_file", broken)
    with pytest.raises(ConnectionError):
        Mirror(workspace / "here", f"file://{there}").push("fold-0")
    assert files(there) == {"fold-0/result.json"}


@pytest.mark.full
def test_a_training_resumes_on_another_machine_from_the_mirror(tmp_path, uninterrupted):
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    words = [*LONG, "--fold", "0,1", "--jobs", 2, "--no-evaluation", "--mirror", f"file://{tmp_path}/bucket"]
    batch = start(*words, cwd=here)
    wait_for(lambda: has_state(here, 0))
    batch.send_signal(signal.SIGINT)
    finish(batch, code=130)
    finish(start(*words, cwd=other))
    bucket = tmp_path / "bucket" / "tiny"
    assert re.search(r"from step \d+ of", (bucket / "02_fold0.ipynb").read_text())
    for fold, expected in uninterrupted.items():
        assert_same(expected, other / "output" / "tiny" / f"fold-{fold}")
        assert_same(expected, bucket / f"fold-{fold}")
    assert (bucket / "summary.csv").exists()
