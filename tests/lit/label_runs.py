"""Runs of label tasks with one fold each, whose model is random: it need not be trained to be looked into."""

import numpy as np
import pandas as pd
import torch

from utils.config import Config
from utils.explain.explainer import Explainer
from utils.machine import runtime
from utils.modeling.ordinal import CutsLoss
from utils.runs import artifacts
from utils.runs.run import Run
from utils.tasks import add_folds, load_table, make_task
from utils.training.build import build_model

#: For each kind of task its settings.
KINDS = {
    "binary": {"task": "binary", "target_columns": "suitable"},
    "multiclass": {"task": "multiclass", "target_columns": "kind"},
    "several targets": {"task": "multiclass", "target_columns": "kind,level"},
    "multilabel": {"task": "multilabel", "target_columns": "easy,hard"},
    "ordinal": {"task": "ordinal", "target_columns": "level"},
    "ordinal, as classes": {"task": "ordinal", "target_columns": "half", "loss": "cross_entropy"},
}
#: Those that only ``make test-all`` tries everywhere.
MORE = ("several targets", "multilabel", "ordinal, as classes")


def label_table() -> pd.DataFrame:
    """The sample's texts with labels made of its targets."""
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv")
    level = ((1.0 - table["target"]) / 0.8 + 1).round().clip(1, 5).astype(int)
    kind = level.map({1: "easy", 2: "easy", 3: "middle", 4: "hard", 5: "hard"})
    return table.assign(
        level=level,
        half=level / 2,
        kind=kind,
        suitable=np.where(level <= 3, "yes", "no"),
        easy=(level <= 2).astype(int),
        hard=(level >= 4).astype(int),
    )


def random_run(kind: str, folder) -> Run:
    """A run of fold 0, whose head's scores differ from text to text, and lie around 0."""
    label_table().to_csv(folder / "labels.csv", index=False)
    paths = {"data": str(folder / "labels.csv"), "output_dir": str(folder), "max_rows": 0}
    config = Config.make("tiny", precision="fp32", **paths, **KINDS[kind])
    table = add_folds(load_table(config), config)
    task = make_task(config, table, table[table["fold"] != 0])
    torch.manual_seed(0)
    model, tokenizer = build_model(config, task)
    torch.nn.init.normal_(model.head.linear.weight, std=100.0)  # a random encoder's texts look alike
    artifacts.save_model(model.config, model.state_dict(), tokenizer, folder / "averaged")
    explainer, held_out = Explainer(folder / "averaged", task), table[table["fold"] == 0]
    logits = explainer.logits(held_out[config.text_column].tolist())
    with torch.no_grad():
        bias = model.head.biases if task.head().shared else model.head.linear.bias
        scale = getattr(model.head, "scale", torch.ones(1))
        bias -= torch.from_numpy(np.median(logits, axis=0)).float() / scale
        if issubclass(task.loss_class, CutsLoss):
            bias += torch.linspace(1, -1, len(bias))
    artifacts.save_model(model.config, model.state_dict(), tokenizer, folder / "averaged")
    logits = Explainer(folder / "averaged", task).logits(held_out[config.text_column].tolist())
    values = {"target": task.targets(held_out), "averaged": task.decode(list(logits), None)}
    predictions = task.predictions_table(held_out[config.id_column].tolist(), values)
    return Run(config, task, {0: folder}, table, predictions.assign(fold=0))
