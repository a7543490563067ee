"""Predicting with a folder of weights, wherever it has been copied to."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils.config import Config, InputError
from utils.data.table import check_columns, check_table, match_columns
from utils.modeling.heads import HeadConfig
from utils.modeling.model import TextModelConfig
from utils.runs.artifacts import load_model
from utils.tasks import Task, make_task
from utils.training.predict import predict_examples


def predict(folder: Path | str, rows: Sequence[str] | pd.DataFrame, text_column: str = "") -> pd.DataFrame:
    """Predictions for some texts.

    Args:
        folder: of weights, such as ``output/<run>/fold-<k>/averaged``.
        rows: texts, or a table with the columns that the model was trained on; its targets are not needed.
        text_column: the table's column of texts, where it has another name than in the training data.

    Returns:
        A row per text, in the same order: the id (of texts alone, their number from 0), and a column per
        prediction, under the task's own names. Raises InputError for a folder or a table that cannot be used.
    """
    model, tokenizer = load_model(folder)
    task = task_of(model.config)
    config = task.config
    if isinstance(rows, str):
        raise InputError("predict takes a list of texts, or a table; put the text into a list.")
    if len(rows) == 0:
        raise InputError("predict got no texts; pass at least one.")
    if not isinstance(rows, pd.DataFrame):
        rows = pd.DataFrame({config.text_column: list(rows)})
    rows = match_columns(rows, [config.id_column, *filter(None, [text_column])], "the table")
    if text_column:
        check_columns(rows, [text_column], "the table")
        others = [name for name in rows.columns if name != config.text_column or name == text_column]
        rows = rows[others].rename(columns={text_column: config.text_column})
    rows = task.arrange(rows, "the table")
    if config.id_column not in rows.columns:
        rows = rows.assign(**{config.id_column: [str(i) for i in range(len(rows))]})
    table = check_table(rows, config, targets=False)
    predictions = predict_examples(model, task, task.encode(table, tokenizer), tokenizer)
    return task.answers(table[config.id_column], predictions)


def task_of(model_config: TextModelConfig) -> Task:
    """The task that a saved model was trained for."""
    task = make_task(Config.make(**model_config.task))
    task.restore(HeadConfig(**model_config.head))
    return task
