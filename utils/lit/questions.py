"""What notebook 04 asks a LIT server: scores, salient words, the effect of edits."""

from typing import Any

import numpy as np
import pandas as pd

from utils.lit.explain import Explainer
from utils.lit.readable import words_of
from utils.lit.run import dataset_name, model_name, output_number, split_weights
from utils.lit.server import Lit
from utils.lit.spec import make_view
from utils.runs import artifacts
from utils.runs.run import Run


class HeldOut:
    """A fold's model in LIT, with the texts that the fold held out.

    Args:
        lit: a server that ``utils.lit.run.start`` started with the same ``weights`` and ``target``.
        fold: its number; None: the run's first.
    """

    def __init__(
        self, lit: Lit, run: Run, weights: str = "averaged", target: str = "", fold: int | None = None
    ):
        self.lit, self.run = lit, run
        self.fold = next(iter(run.folders)) if fold is None else fold
        self.weights = split_weights(run, weights)[0]
        self.output = output_number(run.task, target)
        self.model, self.dataset = model_name(self.fold, self.weights), dataset_name(self.fold)
        self.view = make_view(run.task, self.output, run.table)
        self.score = self.view.score  # the name of the score's field
        folder = artifacts.weights_folder(run.folders[self.fold], self.weights)
        self.explainer = Explainer(folder, run.task, self.output)
        rows, name = lit.ask("get_dataset", dataset_name=self.dataset), run.task.outputs[self.output]
        self.rows = [row for row in rows if row["data"].get(name, "") is not None]  # with a known target
        fields = {"requested_fields": f"{self.score},pooled"}
        answers = lit.ask(
            "get_preds", {"inputs": self.rows}, model=self.model, dataset_name=self.dataset, **fields
        )
        self.scores = np.array([answer[self.score] for answer in answers])  # (texts,)
        self.pooled = np.array([answer["pooled"] for answer in answers])  # (texts, width)

    @property
    def ids(self) -> list[str]:
        return [row["data"][self.run.config.id_column] for row in self.rows]

    @property
    def targets(self) -> np.ndarray:
        """(texts,), of the explained output."""
        return self._recorded("target")

    def text(self, row: dict) -> str:
        return row["data"][self.run.config.text_column]

    def score_of(self, row: dict) -> float:
        """The score of one of the rows."""
        return float(self.scores[self.rows.index(row)])

    def compare_scores(self) -> pd.DataFrame:
        """LIT's scores beside those that the fold recorded while it was trained, by id."""
        scores = {"LIT": self.scores, "predictions.csv": self._recorded(self.weights)}
        return pd.DataFrame(scores, index=self.ids).assign(
            difference=lambda table: table.diff(axis=1).iloc[:, 1]
        )

    def _recorded(self, name: str) -> np.ndarray:
        """A column of predictions.csv, for the rows."""
        predictions = self.run.predictions.set_index("id").loc[self.ids]
        return self.run.task.values(predictions, name)[:, self.output]

    def words(self, method: str, rows: list[dict], **settings) -> list[tuple[list[str], np.ndarray]]:
        """Each row's words and their salience by one of LIT's methods, summed over the tokens."""
        answers = self.lit.salience(method, self.model, self.dataset, rows, **settings)
        if method == "LIME":
            return answers  # of words already
        spans = self.explainer.encode([self.view.text_of(row["data"]) for row in rows]).spans
        return [
            words_of(self.text(row), row_spans, values)
            for row, row_spans, (_, values) in zip(rows, spans, answers, strict=True)
        ]

    def completeness(self, rows: list[dict]) -> pd.DataFrame:
        """Whether integrated gradients add up to the score's difference from that of the masked text."""
        method, records = "Integrated Gradients", []
        answers = self.lit.salience(method, self.model, self.dataset, rows, Normalize=False)
        for row, (tokens, values) in zip(rows, answers, strict=True):
            masked = self.explainer.read([self.text(row)], [np.zeros((len(tokens), 1))])[0].scores[
                self.output
            ]
            records.append((self.score_of(row), masked, self.score_of(row) - masked, values.sum()))
        columns = ["score", "score of the baseline", "difference", "sum of the words' values"]
        return pd.DataFrame(
            records, columns=columns, index=[row["data"][self.run.config.id_column] for row in rows]
        )

    def edits(self, generator: str, row: dict, most: int = 2, **settings) -> list[dict]:
        """The first new texts that a generator makes of a row, as ``reporting.words.edits_table`` takes them.

        Args:
            settings: of the generator, in place of its defaults.
        """
        text_column = self.run.config.text_column
        verbs = ("replace", "scramble", "ablate")
        fields: dict[str, Any] = {f"Fields to {verb}": [text_column] for verb in verbs}
        fields |= {"Fields to flip tokens in": ["tokens"], "Prediction key": self.score}
        (edited,) = self.lit.generate(generator, self.model, self.dataset, [row], **fields | settings)
        texts = [self.text(new) for new in edited[:most]]
        scores = self.explainer.scores(texts)[:, self.output]
        return [
            {"by": generator, "text": text, "score before": self.score_of(row), "score after": score}
            for text, score in zip(texts, scores, strict=True)
        ]


def rmse_table(lit: Lit, score: str) -> pd.DataFrame:
    """The RMSE of each model on each dataset, as LIT measures it.

    Args:
        score: the name of the score's field.
    """
    models = lit.ask("get_info")["models"]
    names = {model: [name for name in info["datasets"] if name[0] != "_"] for model, info in models.items()}
    table = pd.DataFrame(
        index=pd.Index(names, name="RMSE of"), columns=next(iter(names.values())), dtype=float
    )
    for model, datasets in names.items():
        for dataset in datasets:
            rows = lit.ask("get_dataset", dataset_name=dataset)
            answers = lit.ask("get_metrics", {"inputs": rows}, model=model, dataset_name=dataset)[
                "regression"
            ]
            (metrics,) = (answer["metrics"] for answer in answers if answer["pred_key"] == score)
            table.loc[model, dataset] = metrics["mse"] ** 0.5
    return table
