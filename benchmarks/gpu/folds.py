"""What the workers of the check do: train folds, predict and explain with them."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

import accelerate.accelerator
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState

from benchmarks.common import find_minilm
from utils import predict
from utils.config import Config
from utils.explain.explainer import Explainer
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table, make_task

LOSS_SCALE = 2.0**8  # of fp16, to begin with
#: Dropout draws other masks on another device, so there is none where devices are compared.
SAME_EVERYWHERE = {"head_dropout": 0.0, "encoder_dropout": 0.0}
#: Many short epochs, everything saved after every step: for a training that is killed.
KILLED = {
    "epochs": 4,
    "swa_start": 1.0,
    "swa_every": 2,
    "eval_every": 2,
    "batch_size": 4,
    "accumulation_steps": 2,
    "encoder_dropout": 0.1,
    "optimizer": "madgrad",
}


def settings(model: str, dry_run: bool) -> dict:
    """Of a fold that is trained on both devices: "tiny", or the demo's "minilm" for 20 steps."""
    if dry_run:
        return {"preset": "tiny", **SAME_EVERYWHERE}
    if model == "tiny":  # long enough to tell the texts apart
        longer = {"epochs": 6, "swa_start": 3.0, "batch_size": 4}
        return {"preset": "tiny", **longer, **SAME_EVERYWHERE}
    short = {"epochs": 2, "swa_start": 1.0, "snapshots": 0}
    return {"preset": "demo", "encoder": find_minilm(), **short, **SAME_EVERYWHERE}


def train(output: Path, **chosen) -> Path:
    """Train a fold on this process's device; its folder.

    fp16 starts from a loss scale at which nothing overflows: a step that is skipped to find the scale would
    move the predictions away from those of a device that took it.
    """
    config, scaler = Config.make(output_dir=str(output), **chosen), accelerate.accelerator.get_grad_scaler
    lower = partial(scaler, init_scale=LOSS_SCALE)
    with patch.object(accelerate.accelerator, "get_grad_scaler", lower):
        return fit_fold(config, add_folds(load_table(config), config))


def train_all(output: Path, chosen: dict[str, dict]) -> dict[str, Path]:
    """Train a fold for each model; their folders."""
    return {model: train(output, run=model, **options) for model, options in chosen.items()}


def train_in_share(rank: int, port: int, output: Path, **chosen) -> Path:
    """One of two processes that share every batch of a fold, and the device: gloo sums through the CPU."""
    join_group(rank, port, "gloo")
    try:
        return train(output, **chosen)
    finally:
        leave_group()


def try_nccl(rank: int, port: int) -> str:
    """Whether NCCL sums over two processes on one card; what it says if it does not."""
    torch.cuda.set_device(0)
    try:
        join_group(rank, port, "nccl")
        dist.all_reduce(torch.ones(1, device="cuda"))
        torch.cuda.synchronize()
        return "works"
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if "uplicate" in line or "nvalid usage" in line]
        return (lines or [str(error).splitlines()[0]])[-1]
    finally:
        leave_group()


def join_group(rank: int, port: int, backend: str) -> None:
    """Make this process one of two that Accelerate takes to have been launched together."""
    # Both have the local rank 0: Accelerate takes the GPU with that number, and there is one.
    variables = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in variables.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(True)
    dist.init_process_group(backend, timeout=timedelta(seconds=60))


def leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    AcceleratorState._reset_state(True)


# --- reading a trained fold ---------------------------------------------------------------------------------


def held_out(folder: Path) -> pd.DataFrame:
    """The rows that a fold held out."""
    config = read_config(folder)
    table = add_folds(load_table(config), config)
    return table[table["fold"] == config.fold]


def read_config(folder: Path) -> Config:
    return Config.make(**artifacts.read_metadata(folder)["config"])


def predictions(folder: Path, weights: str = "last") -> np.ndarray:
    """What a fold wrote for its held-out rows, (rows,); weights "target": what they should be."""
    return artifacts.read_predictions(folder)[weights].to_numpy(dtype=float)


def skipped_steps(folder: Path) -> int:
    """How many steps a fold left out since their gradients overflowed in fp16."""
    scale = pd.read_csv(folder / "history.csv")["loss_scale"].iloc[-1]
    return round(np.log2(LOSS_SCALE / scale)) if scale < LOSS_SCALE else 0


def predict_again(folder: Path) -> np.ndarray:
    """What the saved weights predict for the held-out rows on this process's device, (rows,)."""
    return predict(folder / "last", held_out(folder))["target"].to_numpy(dtype=float)


def explain(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Scores, embeddings' gradients and attention of some texts, as notebook 04 reads them; flat arrays."""
    config = read_config(folder)
    task = make_task(config, add_folds(load_table(config), config))
    readings = Explainer(folder / "last", task).read(texts)
    names = ("scores", "gradients", "pooled_gradient", "attention")
    arrays = {name: [np.ravel(getattr(reading, name)) for reading in readings] for name in names}
    return {name: np.concatenate(parts) for name, parts in arrays.items()}


def explain_in_lit(folder: Path, texts: list[str]) -> np.ndarray:
    """The gradients of the tokens' embeddings that LIT's model gives, flat. Needs lit-nlp."""
    from utils.lit.spec import make_view
    from utils.lit.wrappers import FoldModel

    config = read_config(folder)
    table = add_folds(load_table(config), config)
    task = make_task(config, table)
    model = FoldModel(Explainer(folder / "last", task), make_view(task, 0, table))
    outputs = model.predict([{config.text_column: text} for text in texts])
    return np.concatenate([np.ravel(output["token_gradients"]) for output in outputs])
