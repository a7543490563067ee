"""Two processes give one process's result, whoever starts them."""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests.trainers import helpers
from tests.trainers.helpers import needs_lightning
from tests.trainers.launched import OPTIONS
from utils.machine import runtime
from utils.runs import artifacts

SCRIPT = ["-m", "tests.trainers.launched"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29671", *SCRIPT]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--main_process_port", "29673", *SCRIPT]


@pytest.mark.full
@pytest.mark.parametrize("task", ["regression", "binary"])
@pytest.mark.parametrize(
    ("loop", "command"),
    [
        pytest.param("lightning", TORCHRUN, marks=needs_lightning, id="lightning-torchrun"),
        pytest.param("lightning", SCRIPT, marks=needs_lightning, id="lightning-ddp"),
        pytest.param("hugging_face", TORCHRUN, id="trainer-torchrun"),
        pytest.param("hugging_face", ACCELERATE, id="trainer-accelerate"),
    ],
)
def test_two_processes_give_the_result_of_one(loop, command, task, workspace):
    """For a loss that is a mean, weighted, and for one that is a root."""
    one = helpers.make_fold(workspace, task, run="one", **OPTIONS)
    helpers.train(loop, one)
    arguments = [str(workspace), loop, task, "two"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(runtime.ROOT)}
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        env=variables,
        cwd=runtime.ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folders = [artifacts.fold_folder(one.config).parents[1] / name / "fold-0" for name in ("one", "two")]
    assert artifacts.read_metadata(folders[1])["device"].startswith("2 x")
    for weights in artifacts.WEIGHTS:
        helpers.assert_close(*(load_file(path / weights / "model.safetensors") for path in folders))
