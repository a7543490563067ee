"""What the reports draw of labels: classes, grades, and any of several labels."""

import functools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils.reporting import classes
from utils.reporting.numbers import View, draw_spread
from utils.reporting.style import NAMES, literal, short_name
from utils.runs.run import Run
from utils.tasks.classification import Classification
from utils.tasks.metrics import Metric
from utils.tasks.ordinal import expected_grades


class LabelsView(View):
    """Classes: counts, a confusion matrix, how sure the model is and whether rightly so."""

    task: Classification
    part = "Target"  # what ``names`` are, where they are several

    def __init__(self, task: Classification):
        super().__init__(task)
        self.measure = Metric("error", task.error)
        self.classes = task.class_names("")

    def classes_of(self, codes: np.ndarray) -> np.ndarray:
        """(rows, classes): 1 where a row has the class, 0 where it has another one of the same target."""
        parts = [
            np.where(np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(size))
            for column, size in zip(codes.T, self.task.sizes, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def _shown_classes(self, table: pd.DataFrame) -> pd.DataFrame:
        """``classes_of`` the most frequent classes, by name."""
        given = self.classes_of(self.task.targets(table))
        chosen = classes.most_frequent(np.nansum(given, axis=0))
        return pd.DataFrame(given[:, chosen], index=table.index, columns=np.array(self.classes)[chosen])

    def fold_columns(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        by_fold = self._shown_classes(table).groupby(table["fold"])
        counts, shares = by_fold.sum(), by_fold.mean().fillna(0)
        return {
            name: counts[name].map("{:.0f}".format) + shares[name].map(" ({:.0%})".format) for name in counts
        }

    def draw_targets(self, axes, table: pd.DataFrame) -> None:
        given = self._shown_classes(table)
        classes.draw_counts(axes, list(given), given.sum().to_numpy(), given.mean().to_numpy())
        all_shown = len(given.columns) == len(self.classes)
        title = f"The {len(given.columns)} most frequent of {len(self.classes)} labels"
        axes.set_title("Labels" if all_shown else title)

    def described(self, targets: np.ndarray) -> pd.Series:
        """The label, in the order of the labels; of several targets their labels in one string."""
        if len(self.names) > 1:
            sentences = [self.task.sample({"target": row}) for row in targets]
            return pd.Series([sentence.removeprefix("target ") for sentence in sentences])
        codes = targets[:, 0].astype(int)
        return pd.Series(pd.Categorical.from_codes(codes, self.task.labels[0], ordered=True))

    def plot_predictions(self, targets: np.ndarray, predicted: np.ndarray, weights: str):
        """A confusion matrix per target, the true classes' probabilities, and whether they can be trusted."""
        panels = [*self.panels(targets, predicted), *self.certainty(targets, predicted)]
        n_columns = 2 if len(panels) in (2, 4) else 3
        n_rows = -(-len(panels) // n_columns)
        size = (3.5 * n_columns, 3.5 * n_rows)
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
        for panel, draw in zip(axes.flat, panels, strict=False):
            draw(panel)
        for panel in axes.flat[len(panels) :]:
            panel.remove()
        look = {"x": 0.01, "ha": "left", "fontsize": 11, "fontweight": "bold"}
        figure.suptitle(f"Held-out texts, {NAMES[weights]} weights", **look)
        return figure

    def panels(self, targets: np.ndarray, predicted: np.ndarray) -> list:
        """Functions that draw on axes what was predicted for each target."""
        known = self.task.known(targets, predicted)
        return [
            functools.partial(classes.draw_confusion, codes=codes, predicted=chosen, names=names, title=title)
            for (codes, chosen, _), names, title in zip(known, self.task.labels, self._titles(), strict=True)
        ]

    def _titles(self) -> list[str]:
        return [literal(name) for name in self.names] if len(self.names) > 1 else ["Confusion matrix"]

    def certainty(self, targets: np.ndarray, predicted: np.ndarray) -> list:
        """Functions that draw the probabilities of the true classes, and how often they come true."""
        known = list(self.task.known(targets, predicted))
        true = np.concatenate([part[np.arange(len(codes)), codes] for codes, _, part in known])
        right = np.concatenate([codes == chosen for codes, chosen, _ in known])
        shares, outcomes, name = self.forecasts(known)
        return [
            functools.partial(classes.draw_true_probabilities, shares=true, right=right),
            functools.partial(classes.draw_reliability, shares=shares, outcomes=outcomes, name=name),
        ]

    def forecasts(self, known: list) -> tuple[np.ndarray, np.ndarray, str]:
        """Probabilities, whether what they are of came true, and what they are of."""
        if len(known) == 1 and self.task.sizes == [2]:
            codes, _, part = known[0]
            return part[:, 1], codes == 1, self.task.labels[0][1]
        shares = [part[np.arange(len(chosen)), chosen] for _, chosen, part in known]
        right = [codes == chosen for codes, chosen, _ in known]
        return np.concatenate(shares), np.concatenate(right), "the predicted label"

    def error_of(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """The mean of the task's errors, since most scores of a single class are undefined."""
        return float(np.nanmean(self.task.errors(targets, predictions)))

    def target_errors(self, run: Run, described: pd.Series) -> tuple[str, pd.DataFrame]:
        if len(self.names) == 1:
            chosen = classes.most_frequent(described.value_counts(sort=False).to_numpy())
            shown = np.array(self.task.labels[0])[chosen]
            return "Label", self.grouped_errors(run, described.where(described.isin(shown)))
        errors = {weights: np.nanmean(run.errors(weights), axis=0) for weights in run.weights}
        return self.part, pd.DataFrame(errors, index=self.names)

    def draw_misses(self, axes, run: Run) -> None:
        """What is taken for what by the weights kept, over all folds, and what averaging changed in that."""
        weights, targets = run.weights[-1], run.targets
        if len(self.names) > 1:
            right = (self.task.predicted(run.values(weights)) == targets).sum(axis=0)
            wrong = (~np.isnan(targets)).sum(axis=0) - right
            classes.draw_stacked(axes, self.names, {"right": right, "wrong": wrong})
            axes.set_title(f"All folds, {short_name(weights)} weights")
            return
        before = self.task.predicted(run.values("last"))[:, 0] if weights == "averaged" else None
        predicted = self.task.predicted(run.values(weights))[:, 0]
        title = f"{short_name(weights).capitalize()} weights"
        classes.draw_confusion(axes, targets[:, 0].astype(int), predicted, self.task.labels[0], title, before)

    def plot_agreement(self, predictions: np.ndarray, folds: list[int]):
        """How many folds give the label of their mean, and how far they differ on its probability."""
        chosen = self.task.predicted(self.task.combine(list(predictions)))
        by_fold = np.stack([self.task.predicted(one) for one in predictions])  # (folds, rows, targets)
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
        what = "texts" if len(self.names) == 1 else "labels"
        classes.draw_votes(left, (by_fold == chosen).sum(axis=0).ravel(), len(folds), what)
        shares = [
            [part[np.arange(len(part)), codes] for part, codes in zip(parts, chosen.T, strict=True)]
            for parts in map(self.task.by_target, predictions)
        ]
        draw_spread(right, np.array(shares).reshape(len(folds), -1))
        right.set_xlabel("standard deviation of the label's probability")
        return figure


class GradesView(LabelsView):
    """Grades: the expected grade against the true one, too."""

    def panels(self, targets: np.ndarray, predicted: np.ndarray) -> list:
        known = zip(self.task.known(targets, predicted), self.task.labels, strict=True)
        grades = [
            functools.partial(classes.draw_grades, codes=codes, grades=expected_grades(part), names=names)
            for (codes, _, part), names in known
        ]
        pairs = zip(super().panels(targets, predicted), grades, strict=True)
        return [panel for pair in pairs for panel in pair]


class MultilabelView(LabelsView):
    """Any of several labels: how many of each are found, missed and falsely alarmed."""

    part = "Label"

    def classes_of(self, codes: np.ndarray) -> np.ndarray:
        return codes

    def panels(self, targets: np.ndarray, predicted: np.ndarray) -> list:
        return [functools.partial(self._draw_labels, targets=targets, predicted=predicted)]

    def _draw_labels(self, axes, targets: np.ndarray, predicted: np.ndarray) -> None:
        given = self.task.predicted(predicted)
        counts = {
            "found": ((targets == 1) & (given == 1)).sum(axis=0),
            "missed": ((targets == 1) & (given == 0)).sum(axis=0),
            "false alarm": ((targets == 0) & (given == 1)).sum(axis=0),
        }
        classes.draw_stacked(axes, self.names, counts)
        axes.set_title("Labels")

    def forecasts(self, known: list) -> tuple[np.ndarray, np.ndarray, str]:
        shares = [part[:, 1] for _, _, part in known]
        return np.concatenate(shares), np.concatenate([codes == 1 for codes, _, _ in known]), "each label"

    def draw_misses(self, axes, run: Run) -> None:
        self._draw_labels(axes, run.targets, run.values(run.weights[-1]))
        axes.set_title(f"All folds, {short_name(run.weights[-1])} weights")
