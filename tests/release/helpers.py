"""Folders of weights for every kind of task, with random heads: one need not train to predict."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.lit.label_runs import label_table
from tests.tasks.questions import make_questions
from utils.config import Config
from utils.data.reading import read_table
from utils.machine import runtime
from utils.runs import artifacts
from utils.tasks import add_folds, load_table, make_task
from utils.training.build import build_model

ASPECTS = {"preset": "aspects", "encoder": "tiny", "max_length": 48, "head_lr_factor": 1.0, "max_rows": 60}
QUESTIONS = {
    "preset": "questions",
    "encoder": "tiny",
    "max_length": 40,
    "stride": 8,
    "group_column": "context",
    "n_folds": 2,
}
#: For each kind of task its settings.
KINDS = {
    "numbers": {},
    "several numbers": {"target_columns": "target,standard_error"},
    "binary": {"task": "binary", "target_columns": "suitable"},
    "multiclass": {"task": "multiclass", "target_columns": "kind", "pooling": "last"},
    "several targets": {"task": "multiclass", "target_columns": "kind,level"},
    "multilabel": {"task": "multilabel", "target_columns": "easy,hard"},
    "ordinal": {"task": "ordinal", "target_columns": "level"},
    "ordinal, corn": {"task": "ordinal", "target_columns": "level", "loss": "corn"},
    "ordinal, as classes": {"task": "ordinal", "target_columns": "half", "loss": "cross_entropy"},
    "pairs": {"pair_column": "kind"},
    "aspects": {**ASPECTS, "pooling": "lcf_cdw"},
    "spans": QUESTIONS,
}


#: Those that only ``make test-all`` tries everywhere.
MORE = ("several numbers", "several targets", "ordinal, corn", "ordinal, as classes", "pairs")
PARAMETERS = [pytest.param(kind, marks=[pytest.mark.full] * (kind in MORE)) for kind in KINDS]


def make_config(kind, folder):
    """The kind's Config, with its data in ``folder``."""
    settings = {"preset": "tiny", "precision": "fp32", **KINDS[kind]}
    if settings["preset"] == "tiny":
        label_table()[::3].to_csv(folder / "labels.csv", index=False)
        settings["data"] = str(folder / "labels.csv")
    elif settings["preset"] == "questions":
        make_questions().to_csv(folder / "questions.csv", index=False)
        settings["data"] = str(folder / "questions.csv")
    return Config.make(settings.pop("preset"), **settings)


def save_random(kind, folder):
    """Weights of a kind in ``folder``; the rows that they were not made for, as a table without targets."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = make_config(kind, folder.parent)
    table = add_folds(load_table(config), config)
    task = make_task(config, table, table[table["fold"] != 0])
    torch.manual_seed(0)
    model, tokenizer = build_model(config, task)
    torch.nn.init.normal_(model.head.linear.weight, std=3.0)  # a random encoder's texts look alike
    artifacts.save_model(model.config, model.state_dict(), tokenizer, folder)
    rows = read_table(runtime.ROOT / "data/aspects/train.csv") if kind == "aspects" else read_table_of(config)
    columns = [config.id_column, *config.text_columns, *(["start"] if kind == "aspects" else [])]
    return rows.loc[rows[config.id_column].isin(table.loc[table["fold"] == 0, "id"]), columns].head(12)


def save_another(source, folder, seed):
    """A copy of weights with another head."""
    model, tokenizer = artifacts.load_model(source)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.head.linear.weight, std=3.0)
    artifacts.save_model(model.config, model.state_dict(), tokenizer, folder)


def read_table_of(config):
    return read_table(runtime.workspace() / config.data)


def numbers_of(answers):
    """The columns of numbers, (rows, columns)."""
    return answers.select_dtypes("number").to_numpy(float)


def assert_same_answers(one, other, atol=1e-5):
    assert list(one) == list(other)
    pd.testing.assert_frame_equal(
        one.select_dtypes(exclude="number").reset_index(drop=True),
        other.select_dtypes(exclude="number").reset_index(drop=True),
    )
    np.testing.assert_allclose(numbers_of(one), numbers_of(other), atol=atol, rtol=0)
