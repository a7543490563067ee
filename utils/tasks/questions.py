"""Questions in tables: where their answers stand, and how predicted ones are written down."""

import numpy as np
import pandas as pd

from utils.config import InputError
from utils.data.squad import ANSWERS, flatten, is_squad
from utils.data.table import check_columns, check_rows, match_columns
from utils.tasks.base import Task
from utils.tasks.excerpts import excerpt
from utils.tasks.numbers import read_numbers

#: Columns that are added: the context as it was given, and where its answer stops.
GIVEN, END = "_context", "_stop"


class Questions(Task):
    """The tables of a task that answers a question by a span of a text, ``text_column``.

    Targets are the row in the table, by which the true answers are known, and where the first of them starts
    and stops, (rows, 3); -1 where there is none. Spans are in characters of the context as it was given.
    """

    def __init__(self, config):
        super().__init__(config)
        if not config.pair_column:
            raise InputError("task=spans reads two columns; set pair_column, that of the questions.")
        if len(config.target_columns) > 2:
            raise InputError("task=spans takes the columns of answer and start; set target_columns to them.")
        self.answer: str = config.target_columns[0]
        self.start: str = [*config.target_columns, "start"][1]
        self.contexts: dict[str, str] = {}  # as they were given, of every row seen, by id
        self.rows: dict[str, int] = {}  # of the table, by id
        self.truths: list[tuple[str, ...]] = []  # the true answers of each of these rows
        self.has_cuts = config.no_answer != "never"  # whether a question may be left without an answer

    @property
    def text_settings(self) -> tuple[str, ...]:
        return "text_column", "pair_column"

    def prepare(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """A row per question, from a table or SQuAD's JSON, and the context as it is given in ``GIVEN``."""
        config = self.config
        if is_squad(table):
            names = (config.id_column, config.pair_column, config.text_column, self.answer, self.start)
            by_role = dict(zip(("id", "question", "context", "answer", "start"), names, strict=True))
            table = flatten(table, by_role, where)
        table = match_columns(table, config.text_columns, where)
        check_columns(table, config.text_columns, where)
        contexts = table[config.text_column].map(lambda text: text if isinstance(text, str) else "")
        return table.assign(**{GIVEN: contexts})

    def check(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """``table`` with the answers' places; an answer without a start must occur once in its context."""
        answers = table[self.answer].map(lambda text: "" if pd.isna(text) is True else str(text))
        answers = answers.where(answers.str.strip() != "", "")
        if (answers == "").all():
            raise InputError(f"{where}: column {self.answer!r} is empty; name another in target_columns.")
        table = table.assign(**{self.answer: answers})
        if self.config.no_answer == "never":
            check_rows(table, answers == "", self.answer, "is empty, against no_answer=never,", where)
        starts = self._find_starts(table, where)
        ends = starts + answers.str.len().where(answers != "", 0)
        if ANSWERS not in table:
            table[ANSWERS] = [(answer,) if answer else () for answer in answers]
        return table.assign(**{self.start: starts, END: ends})

    def _find_starts(self, table: pd.DataFrame, where: str) -> pd.Series:
        """Where each answer starts; -1 where there is none."""
        stated = pd.Series(np.nan, table.index)
        if self.start in table:
            stated = read_numbers(table, self.start, where)
        pairs = list(zip(table[GIVEN], table[self.answer], strict=True))
        times = pd.Series([context.count(answer) if answer else 1 for context, answer in pairs], table.index)
        problem = "does not occur in its context, which must hold it letter by letter,"
        check_rows(table, times == 0, self.answer, problem, where)
        problem = f"occurs several times in its context, and column {self.start!r} must say where,"
        check_rows(table, stated.isna() & (times > 1), self.answer, problem, where)
        found = pd.Series([context.find(answer) if answer else -1 for context, answer in pairs], table.index)
        starts = stated.where(stated.notna() & (table[self.answer] != ""), found)
        stands = [
            not answer or (start >= 0 and start % 1 == 0 and context.startswith(answer, int(start)))
            for start, (context, answer) in zip(starts, pairs, strict=True)
        ]
        problem = f"does not stand where column {self.start!r} says, in characters of its context from 0,"
        check_rows(table, ~pd.Series(stands, table.index), self.answer, problem, where)
        return starts.astype(int)

    def strata(self, table: pd.DataFrame) -> pd.Series:
        """Whether there is an answer."""
        return table[END] >= 0

    def check_fold(self, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
        """A context must not be on both sides: its other questions give much of it away."""
        shared = held_out[GIVEN].isin(set(train[GIVEN]))
        if shared.any():
            config, row = self.config, held_out[shared].iloc[0]
            raise InputError(
                f"the context of {row[config.id_column]!r} ({row[GIVEN][:40]!r}) is held out, and trained on "
                "with other questions; set fold_by=group and group_column to the column of the article or "
                f"topic, or to {config.text_column}."
            )
        super().check_fold(train, held_out)

    def see(self, table: pd.DataFrame) -> None:
        self.rows = {name: row for row, name in enumerate(table[self.config.id_column])}
        self.truths = table[ANSWERS].tolist()
        if self.config.no_answer == "auto":
            self.has_cuts = bool((table[END] < 0).any())
        self.remember(table)

    def remember(self, table: pd.DataFrame) -> None:
        """Keep the contexts, of which answers are parts."""
        self.contexts |= dict(zip(table[self.config.id_column], table[GIVEN], strict=True))

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        if END not in table:
            return np.full((len(table), 3), np.nan)
        rows = table[self.config.id_column].map(self.rows)
        return np.column_stack([rows, table[self.start], table[END]]).astype(np.float64)

    def predicted(self, predictions: np.ndarray, cuts: np.ndarray | None = None) -> np.ndarray:
        """Where each answer starts and stops, (rows, 2); -1 for no answer."""
        raise NotImplementedError

    def disagreement(self, predictions) -> dict[str, np.ndarray]:
        """The share of the models that answer otherwise than their combination."""
        chosen = self.predicted(self.combine(list(predictions)))
        others = [(self.predicted(one) != chosen).any(axis=1) for one in predictions]
        return {"spread": np.mean(others, axis=0)}

    # --- for people -----------------------------------------------------------------------------------------

    def texts(self, ids, spans: np.ndarray) -> list[str]:
        """The answers, as the contexts have them; "" for none."""
        return [
            self.contexts[name][start:stop] if start >= 0 else ""
            for name, (start, stop) in zip(ids, spans.astype(int), strict=True)
        ]

    def columns(self, weights: str) -> list[str]:
        if weights == "target":
            return ["target row", "target start", "target stop"]
        return [f"{weights} {name}" for name in ("start", "stop", "score", "no answer")]

    def predictions_table(self, ids, values) -> pd.DataFrame:
        """The numbers, and the answers' texts."""
        table = super().predictions_table(ids, values)
        for name, array in values.items():
            spans = array[:, 1:] if name == "target" else self.predicted(array)
            table[f"{name} answer"] = self.texts(ids, spans)
        return table

    def sample(self, values) -> str:
        """The first true answer and the predicted ones, or that there is none."""
        names = list(self.rows)
        row = int(values["target"][0]) if "target" in values else None
        parts = []
        for name, array in values.items():
            span = array[None, 1:] if name == "target" else self.predicted(array[None])
            text = f"characters {span[0, 0]:.0f} to {span[0, 1]:.0f}"
            if row is not None:
                text = repr(self.texts([names[row]], span)[0])
            parts.append(f"{name} {'no answer' if span[0, 0] < 0 else text}")
        return ", ".join(parts)

    def excerpts(self, table, values, width) -> list[str]:
        """The question; the context around [the first true answer] and {the one predicted last}."""
        *_, last = values.values()
        texts = table[self.config.pair_column], table[GIVEN]
        spans = values["target"][:, 1:].astype(int), self.predicted(last)
        return [
            f"{excerpt(question, width // 2)} · {excerpt(context, width // 2, {'[]': true, '{}': predicted})}"
            for question, context, true, predicted in zip(*texts, *spans, strict=True)
        ]

    def submission(self, ids, predictions, sample=None) -> pd.DataFrame:
        """Answers, empty where there is none."""
        answers = self.texts(ids, self.predicted(predictions))
        return pd.DataFrame({self.config.id_column: ids, self.answer: answers})

    def answers(self, ids, predictions) -> pd.DataFrame:
        """Answers, where they start and stop, and by how much "no answer" is better."""
        start, stop = self.predicted(predictions).T
        columns = {"start": start, "stop": stop, "score": predictions[:, 2], "no answer": predictions[:, 3]}
        return self.submission(ids, predictions).assign(**columns)
