import json

import pytest

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
