import json
import os

import pytest
import torch
from safetensors.torch import save_file

from utils.machine import files, runtime


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"rmse": float("nan"), "n": 1})
    assert json.loads(path.read_text()) == {"rmse": None, "n": 1}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"rmse": None, "n": 1}


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    folder = tmp_path / "best"
    with files.atomic_folder(folder) as new:
        (new / "weights").write_text("old")

    def fail():
        with files.atomic_folder(folder) as new:
            (new / "weights").write_text("partial")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert (folder / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"], "a partial folder was left behind"


def test_messages_shorten_only_paths_inside_the_workspace(workspace):
    assert runtime.display_path(workspace / "output" / "x") == "output/x"
    assert runtime.display_path("/elsewhere/x") == "/elsewhere/x"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".best-abc123", "best", ".last-abc123", "state"):
        (tmp_path / name / "new").mkdir(parents=True)
    files.remove_leftovers(tmp_path / "best", tmp_path / "averaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".last-abc123", "best", "state"]


@pytest.mark.parametrize(("umask", "of_file", "of_folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_what_is_written_has_the_permissions_that_umask_gives(umask, of_file, of_folder, tmp_path):
    """safetensors writes files that only their owner can read, whatever the umask."""
    usual = os.umask(umask)
    try:
        with files.atomic_file(tmp_path / "snapshot") as temporary:
            save_file({"weight": torch.ones(2)}, temporary)
        with files.atomic_folder(tmp_path / "last") as new:
            save_file({"weight": torch.ones(2)}, new / "model.safetensors")
            (new / "inside").mkdir(mode=0o500)
        files.write_json(tmp_path / "run.json", {})
    finally:
        os.umask(usual)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    written = dict.fromkeys(["snapshot", "last/model.safetensors", "run.json"], of_file)
    assert modes == written | dict.fromkeys(["last", "last/inside"], of_folder)
