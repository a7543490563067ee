"""What notebook 04 asks a LIT server: scores, salient words, the effect of edits."""

import functools
from typing import Any

import numpy as np
import pandas as pd
import torch

from utils.explain.encoding import Read, read_by
from utils.explain.explainer import Explainer
from utils.explain.readable import words_of
from utils.lit.run import are_paired, dataset_name, model_name, output_number, split_weights
from utils.lit.server import Lit
from utils.lit.spec import make_view
from utils.runs import artifacts
from utils.runs.run import Run


class HeldOut:
    """A fold's model in LIT, with the texts that the fold held out.

    Args:
        lit: a server that ``utils.lit.run.start`` started with the same ``weights`` and ``target``.
        fold: its number; None: the run's first.

    Of a label, ``scores`` are its probabilities and ``targets`` are 1 where a text has it, else 0.
    """

    def __init__(
        self, lit: Lit, run: Run, weights: str = "averaged", target: str = "", fold: int | None = None
    ):
        self.lit, self.run = lit, run
        self.fold = next(iter(run.folders)) if fold is None else fold
        self.weights = split_weights(run, weights)[0]
        self.model, self.dataset = model_name(self.fold, self.weights), dataset_name(self.fold)
        output = output_number(run.task, target)
        self.view = make_view(run.task, output, run.table)
        self.explained = self.view.quantities[self.view.chosen(None)]
        folder = artifacts.weights_folder(run.folders[self.fold], self.weights)
        self.explainer = Explainer(folder, run.task, output)
        self._recorded = run.predictions.set_index("id")
        rows = lit.ask("get_dataset", dataset_name=self.dataset)
        truths = self._truths([row["data"][run.config.id_column] for row in rows])
        self.rows = [row for row, truth in zip(rows, truths, strict=True) if not np.isnan(truth)]
        fields = {"requested_fields": f"{self.view.score},pooled"}
        answers = lit.ask(
            "get_preds", {"inputs": self.rows}, model=self.model, dataset_name=self.dataset, **fields
        )
        self.scores = np.array(list(map(self.view.prediction, answers)))  # (texts,)
        self.pooled = np.array([answer["pooled"] for answer in answers])  # (texts, width)

    @property
    def ids(self) -> list[str]:
        return [row["data"][self.run.config.id_column] for row in self.rows]

    @property
    def targets(self) -> np.ndarray:
        """(texts,), of the explained output."""
        return self._truths(self.ids)

    def text(self, row: dict) -> str:
        return row["data"][self.run.config.text_column]

    def read_of(self, row: dict) -> Read:
        """What the model reads of a row."""
        return read_by(self.run.config, row["data"])

    def score_of(self, row: dict) -> float:
        """The score of one of the rows."""
        return float(self.scores[self.rows.index(row)])

    def compare_scores(self) -> pd.DataFrame:
        """LIT's scores beside those that the fold recorded while it was trained, by id."""
        recorded = self.run.task.values(self._recorded.loc[self.ids], self.weights)
        scores = {"LIT": self.scores, "predictions.csv": self.view.recorded(recorded)}
        return pd.DataFrame(scores, index=self.ids).assign(
            difference=lambda table: table.diff(axis=1).iloc[:, 1]
        )

    def _truths(self, ids: list[str]) -> np.ndarray:
        return self.view.truth(self.run.task.values(self._recorded.loc[ids], "target"))

    @property
    def extent(self) -> np.ndarray:
        """(texts,), how much of what is explained a text has: its target, or the probability of a label."""
        return self.targets if self.view.index is None else self.scores

    def caption(self, row: dict) -> str:
        """A row's truth and prediction, as the title of its picture."""
        number = self.rows.index(row)
        return self.view.caption(self.targets[number], self.scores[number])

    def words(self, method: str, rows: list[dict], **settings) -> list[tuple[list[str], np.ndarray]]:
        """Each row's words and their salience by one of LIT's methods, summed over the tokens."""
        answers = self.lit.salience(method, self.model, self.dataset, rows, **settings)
        if method == "LIME":
            return answers  # of words already
        spans = self.explainer.encode(list(map(self.read_of, rows))).spans
        return [
            words_of(self.text(row), row_spans, values)
            for row, row_spans, (_, values) in zip(rows, spans, answers, strict=True)
        ]

    def left_out(self, row: dict) -> tuple[list[str], np.ndarray]:
        """The words that the model reads of a row, and by how much the score falls without each, (words,)."""
        spans = self.explainer.encode([self.read_of(row)]).spans[0]
        words = words_of(self.text(row), spans, np.zeros(len(spans)))[0]
        texts = [" ".join(words), *(" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)))]
        column = self.run.config.text_column
        reads = [read_by(self.run.config, row["data"] | {column: text}) for text in texts]
        scores = self.explained(torch.from_numpy(np.stack(self.explainer.logits(reads)))).numpy()
        return words, scores[0] - scores[1:]

    def completeness(self, rows: list[dict]) -> pd.DataFrame:
        """Whether integrated gradients add up to the score's difference from that of the masked text."""
        method, records = "Integrated Gradients", []
        answers = self.lit.salience(method, self.model, self.dataset, rows, Normalize=False)
        for row, (tokens, values) in zip(rows, answers, strict=True):
            read = self.read_of(row)
            masked = self.explainer.read([read], [np.zeros((len(tokens), 1))])[0].logits
            logits = np.stack([self.explainer.logits([read])[0], masked])
            whole, nothing = self.explained(torch.from_numpy(logits)).tolist()
            records.append((whole, nothing, whole - nothing, values.sum()))
        name = self.view.explains
        columns = [name, f"{name} of the baseline", "difference", "sum of the words' values"]
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
        fields |= {"Fields to flip tokens in": ["tokens"], "Prediction key": self.view.score}
        (edited,) = self.lit.generate(generator, self.model, self.dataset, [row], **fields | settings)
        reads = list(map(self.read_of, edited[:most]))
        head = self.explainer.model.head.config
        values = [self.view.values(logits, head) for logits in self.explainer.logits(reads)]
        before, scores = self.score_of(row), map(self.view.prediction, values)
        return [
            {"by": generator, "text": self.text(new), "score before": before, "score after": score}
            for new, score in zip(edited, scores, strict=False)
        ]

    def metric_table(self) -> pd.DataFrame:
        """The chief metric of each model on each dataset, as LIT measures it."""
        group, metric = self.view.metric
        field = self.view.score if group == "regression" else self.view.class_field
        models = self.lit.ask("get_info")["models"]
        names = {model: [n for n in info["datasets"] if n[0] != "_"] for model, info in models.items()}
        index = pd.Index(names, name=f"{metric.replace('_', ' ')} of")
        table = pd.DataFrame(index=index, columns=next(iter(names.values())), dtype=float)
        for model, datasets in names.items():
            for dataset in filter(functools.partial(are_paired, model), datasets):
                rows = self.lit.ask("get_dataset", dataset_name=dataset)
                answers = self.lit.ask("get_metrics", {"inputs": rows}, model=model, dataset_name=dataset)
                for scores in [each["metrics"] for each in answers[group] if each["pred_key"] == field]:
                    table.loc[model, dataset] = scores[metric]  # of answer spans LIT has none
        return table
