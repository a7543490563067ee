"""A fold in another loop, as a script that several processes run: FOLDER LOOP TASK RUN."""

import sys
from pathlib import Path

import torch

from tests.trainers.helpers import make_fold, train
from utils.machine import runtime

#: Batches of 5 texts, of which each of two processes has 2 or 3.
OPTIONS = {"batch_size": 5, "eval_batch_size": 5, "eval_every": 5, "epochs": 2.0, "swa_start": 1.0}

if __name__ == "__main__":
    folder, loop, task, run = sys.argv[1:]
    torch.set_num_threads(1)
    runtime.workspace = lambda: Path(folder)
    options = {"strategy": "ddp", "devices": 2, "accelerator": "cpu"} if loop == "lightning" else {}
    train(loop, make_fold(Path(folder), task, run=run, **OPTIONS), **options)
