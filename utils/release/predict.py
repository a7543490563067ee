"""Predicting with folders of weights, wherever they have been copied to."""

import contextlib
import functools
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utils.config import InputError
from utils.data.reading import read_pieces
from utils.data.table import ROWS_BEFORE, check_columns, check_table, match_columns
from utils.machine import runtime
from utils.release.onnx import load
from utils.runs.portable import task_of
from utils.tasks import Task
from utils.training.predict import predict_examples

#: Rows that are held at once: enough for batches of similar length.
PIECE = 2048


def predict(
    folders: Path | str | Sequence[Path | str], rows: Sequence[str] | pd.DataFrame, text_column: str = ""
) -> pd.DataFrame:
    """Predictions for some texts.

    Args:
        folders: of weights, such as ``output/<run>/fold-<k>/averaged``. Several make an ensemble.
        rows: texts, pairs of texts where the model reads pairs, or a table with the columns that it was
            trained on; its targets are not needed.
        text_column: the table's column of texts, where it has another name than in the training data.

    Returns:
        A row per text, in the same order: the id (of texts alone, their number from 0), and a column per
        prediction, under the task's own names. Of several folders also the "spread" between them (of several
        targets one each), which each task measures in its own way (``Task.disagreement``). Raises InputError
        for folders or a table that cannot be used.
    """
    predictor = Predictor(folders, text_column)
    if isinstance(rows, str):
        raise InputError("predict takes a list of texts, or a table; put the text into a list.")
    if len(rows) == 0:
        raise InputError("predict got no texts; pass at least one.")
    if not isinstance(rows, pd.DataFrame):
        rows = predictor.task.table_of(list(rows))
    with progress_bar(len(rows)) as bar:
        return predictor.predict(rows, bar.update)


def predict_file(
    folders: Sequence[Path | str], path: Path, text_column: str = "", where: str = ""
) -> Iterator[pd.DataFrame]:
    """``predict`` for the table in a file, which may be larger than memory, a piece of its rows at a time.

    All rows are checked before the first is predicted. ``where``: the file's name in messages.
    """
    predictor, rows, ids = Predictor(folders, text_column), 0, []
    for piece in read_pieces(path, PIECE, where):
        with contextlib.redirect_stdout(None if rows else sys.stdout):
            table = predictor.table(piece)
        rows += len(piece)
        ids.append(pd.util.hash_array(table[predictor.task.config.id_column].to_numpy(object)))
    if (twice := pd.Series(np.concatenate(ids)).duplicated()).any():
        raise InputError(f"the table repeats an id in row {int(twice.argmax()) + 1}; give each row its own.")
    with progress_bar(rows) as bar:
        for piece in read_pieces(path, PIECE, where):
            with _quiet():
                answers = predictor.predict(piece, bar.update)
            yield answers


@contextlib.contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """``path``, or for "-" a temporary file with what standard input holds."""
    if str(path) != "-":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "input"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield copy


class Predictor:
    """The models of one or several folders, and the task that they were trained for.

    Raises InputError for folders that do not answer the same question.
    """

    def __init__(self, folders: Path | str | Sequence[Path | str], text_column: str = ""):
        self.folders = [folders] if isinstance(folders, str | Path) else list(folders)
        if not self.folders:
            raise InputError("predict got no folder; name at least one folder of weights.")
        self.models = [load(folder) for folder in self.folders]
        self.text_column = text_column
        self._check_same_question()

    @property
    def task(self) -> Task:
        """A new one, which remembers no texts."""
        return task_of(self.models[0][0].config)

    def _check_same_question(self) -> None:
        questions = []
        for model, _ in self.models:
            task = task_of(model.config)
            questions.append((task.name, task.config.text_columns, task.columns("target"), task.columns("")))
        for folder, question in zip(self.folders, questions, strict=True):
            if question != questions[0]:
                raise InputError(
                    f"{runtime.display_path(Path(folder))} answers another question than "
                    f"{runtime.display_path(Path(self.folders[0]))} (another task, other columns or labels); "
                    "name folders of one run."
                )

    def table(self, rows: pd.DataFrame, task: Task | None = None) -> pd.DataFrame:
        """``rows`` as the models read them: checked, with ids. Raises InputError naming a row at fault."""
        task = task or self.task
        config, column, before = task.config, self.text_column, rows.attrs.get(ROWS_BEFORE, 0)
        rows = match_columns(rows, [config.id_column, *filter(None, [column])], "the table")
        if column:
            check_columns(rows, [column], "the table")
            others = [name for name in rows.columns if name != config.text_column or name == column]
            rows = rows[others].rename(columns={column: config.text_column})
        if config.id_column not in rows.columns:
            rows = rows.assign(**{config.id_column: [str(before + i) for i in range(len(rows))]})
        return check_table(task.prepare(rows, "the table"), config, targets=False)

    def predict(self, rows: pd.DataFrame, advance: Callable[[float], object]) -> pd.DataFrame:
        """``predict``'s answers. ``advance`` is called with how many of the rows have been read since."""
        task, *others = (task_of(model.config) for model, _ in self.models)
        table, predictions = self.table(rows, task), []
        for own, (model, tokenizer) in zip((task, *others), self.models, strict=True):
            # Each task has the cuts that its own model learnt.
            examples = own.encode(table, tokenizer)
            part = len(rows) / len(examples) / len(self.models)
            forward = functools.partial(_advance, advance, part)
            predictions.append(predict_examples(model, own, examples, tokenizer, advance=forward))
        several = len(predictions) > 1
        combined = task.combine(predictions) if several else predictions[0]
        answers = task.answers(table[task.config.id_column], combined)
        for place, column in enumerate(task.shown_columns, start=1):
            answers.insert(place, column, table[column])
        if not several:
            return answers
        return pd.concat([answers, pd.DataFrame(task.disagreement(np.stack(predictions)))], axis=1)


def progress_bar(rows: int) -> tqdm:
    """A bar over some rows, of which parts may be done: several models read each."""
    form = "{percentage:3.0f}%|{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
    return tqdm(total=rows, unit="text", leave=False, bar_format=form, disable=not runtime.progress_wanted())


def _advance(advance: Callable[[float], object], part: float, examples: int) -> None:
    advance(part * examples)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing again that was said of an earlier piece, or in checking."""
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
