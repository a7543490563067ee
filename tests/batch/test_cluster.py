"""Folds on a Ray cluster of two machines, of which one may be lost; they share a disk or a mirror."""

import re
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from batch import cluster as clusters
from batch import execute, grid
from batch.execute import NotebookError, NotebookStoppedError
from tests.batch.helpers import LONG, finish, has_state, start, wait_for
from tests.runs.helpers import assert_same
from utils.config import InputError
from utils.machine import runtime


@pytest.fixture
def cluster():
    """Two machines of one processor each, on this one; the second can be lost."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def words_for(cluster, *words):
    return [
        *LONG,
        "--fold",
        "0,1",
        "--no-evaluation",
        "--engine",
        "ray",
        "--address",
        cluster.address,
        *words,
    ]


def lose_second_machine(cluster):
    cluster.remove_node(cluster.second, allow_graceful=False)


@pytest.mark.full
def test_the_folds_finish_though_the_cluster_loses_a_machine(cluster, tmp_path, uninterrupted):
    batch = start(*words_for(cluster), cwd=tmp_path)
    for fold in (0, 1):
        wait_for(lambda fold=fold: has_state(tmp_path, fold))
    lose_second_machine(cluster)
    printed = finish(batch)
    assert printed.count("training, try 2") >= 1, printed
    folder = tmp_path / "output" / "tiny"
    for fold, expected in uninterrupted.items():
        assert_same(expected, folder / f"fold-{fold}")
    assert sorted(pd.read_csv(folder / "summary.csv")["tries"]) == [1, 2]


@pytest.mark.full
def test_machines_without_a_shared_disk_meet_at_the_mirror(cluster, tmp_path, uninterrupted):
    bucket = tmp_path / "bucket"
    batch = start(*words_for(cluster, "--mirror", f"file://{bucket}"), cwd=tmp_path)
    for fold in (0, 1):
        wait_for(lambda fold=fold: list(bucket.glob(f"tiny/fold-{fold}/state/*/manifest.json")))
    lose_second_machine(cluster)
    finish(batch)
    for fold, expected in uninterrupted.items():
        assert_same(expected, bucket / "tiny" / f"fold-{fold}")
        assert_same(expected, tmp_path / "output" / "tiny" / f"fold-{fold}")


@pytest.mark.full
@pytest.mark.parametrize("mirrored", [False, True])
def test_interrupted_on_a_cluster_the_folds_save_too(mirrored, cluster, tmp_path):
    bucket = tmp_path / "bucket"
    words = ["--epochs", "200", *(["--mirror", f"file://{bucket}"] if mirrored else [])]
    batch = start(*words_for(cluster, *words), cwd=tmp_path)
    run_folder = (bucket if mirrored else tmp_path / "output") / "tiny"
    for fold in (0, 1):
        wait_for(lambda fold=fold: list(run_folder.glob(f"fold-{fold}/state/*/manifest.json")))
    batch.send_signal(signal.SIGINT)
    finish(batch, code=130)
    table = pd.read_csv(tmp_path / "output" / "tiny" / "summary.csv")
    assert list(table["state"]) == ["stopped", "stopped"]
    for fold in (0, 1):
        notebook = (run_folder / f"02_fold{fold}.ipynb").read_text()
        step = int(re.search(r"stopped by SIGINT after step (\d+)", notebook)[1])
        assert (run_folder / f"fold-{fold}" / "state" / f"step-{step:08d}" / "manifest.json").exists()


@pytest.mark.full
def test_data_of_ones_own_reach_the_machines_that_share_no_disk(cluster, tmp_path):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv").sample(60, random_state=0)
    table.to_csv(tmp_path / "mine.csv", index=False)
    words = ["--preset", "tiny", "--max-rows", "0", "--data", "mine.csv", "--fold", "0", "--no-evaluation"]
    words += ["--engine", "ray", "--address", cluster.address, "--mirror", f"file://{tmp_path}/bucket"]
    finish(start(*words, cwd=tmp_path))
    assert (tmp_path / "output" / "tiny-mine" / "fold-0" / "result.json").exists()


def test_a_missing_ray_is_reported_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError, match=r"Ray is missing; on every machine, pip install -r requirements-ray\.txt"
    ):
        clusters.connect("auto")


# --- without a cluster -------------------------------------------------------------------------------------


class FakeRay:
    """Ray as far as ``cluster.wait`` calls it; a task is an error to raise, or None."""

    def __init__(self, ends):
        self.ends, self.cancelled = ends, []
        self.exceptions = pytest.importorskip("ray").exceptions

    def wait(self, tasks, timeout):
        return ([task for task in tasks if self.ends or task in self.cancelled], [])

    def cancel(self, task):
        self.cancelled.append(task)

    def get(self, task):
        if task is not None:
            raise task


def test_a_task_raises_what_was_raised_on_its_machine():
    fake = FakeRay(ends=True)
    clusters.wait(fake, None, lambda: False)
    cause = NotebookError("InputError: lr is too high")
    remote = fake.exceptions.RayTaskError("train_here", "a traceback", cause)
    with pytest.raises(NotebookError, match=r"^InputError: lr is too high$"):
        clusters.wait(fake, remote, lambda: False)


def test_a_lost_machine_is_a_failed_notebook():
    fake = FakeRay(ends=True)
    lost = fake.exceptions.NodeDiedError("Its node is gone. Much more is known.")
    with pytest.raises(NotebookError, match=r"^NodeDiedError: .*Its node is gone") as caught:
        clusters.wait(fake, lost, lambda: False)
    assert type(caught.value) is NotebookError


def test_a_task_is_cancelled_when_the_batch_stops():
    fake = FakeRay(ends=False)
    with pytest.raises(NotebookStoppedError):
        clusters.wait(fake, None, lambda: True)
    assert fake.cancelled == [None]


def test_a_job_is_sent_with_paths_that_every_machine_knows(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "mine.csv").write_text("id,excerpt,target\n")
    (job,) = grid.expand({"preset": "tiny", "fold": 0, "data": "mine.csv"})
    shared = clusters.with_shared_paths(job, "")
    assert shared.parameters["data"] == str(workspace / "mine.csv")
    assert shared.parameters["output_dir"] == str(workspace / "output")
    assert shared.config.run_name == job.config.run_name
    assert shared.folder == job.folder

    url = f"file://{workspace}/bucket"
    sent = clusters.with_shared_paths(job, url)
    assert sent.config.data == f"{url}/tiny-mine/data/mine.csv"
    trained = []

    def look(job, environment, mirror_url):
        trained.append((job, Path(job.config.data).read_text(), mirror_url))

    monkeypatch.setattr(execute, "train", look)
    clusters.train_here(sent, url)
    ((remote, data, mirror_url),) = trained
    assert (data, mirror_url) == ("id,excerpt,target\n", url)
    assert remote.config.output_dir not in (job.config.output_dir, str(workspace / "output"))
