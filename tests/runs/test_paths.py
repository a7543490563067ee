"""A finished fold says nothing about the machine that trained it, so that it can be passed on."""

import json
import shutil
from pathlib import Path

from utils.machine import runtime
from utils.machine.encoders import encoder_source
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table


def test_a_finished_fold_names_no_folder_of_its_machine(tiny, workspace):
    """But run.json has the settings, and a setting may be a path."""
    encoder = shutil.copytree(encoder_source("tiny"), workspace / "an encoder")
    data = shutil.copy(runtime.ROOT / "data" / "sample" / "train.csv", workspace / "mine.csv")
    paths = {"encoder": str(encoder), "data": str(data), "output_dir": str(workspace / "elsewhere")}
    config = tiny(**paths)
    folder = fit_fold(config, add_folds(load_table(config), config))
    metadata = json.loads((folder / "run.json").read_text())
    assert {name: metadata["config"].pop(name) for name in paths} == paths
    (folder / "run.json").write_text(json.dumps(metadata))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} >= {"last", "best", "averaged"}
    for path in files:
        for place in (workspace, runtime.ROOT, Path.home()):
            assert f"{place}/".encode() not in path.read_bytes(), path
