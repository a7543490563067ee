"""Sentences that interpret results, each made from its numbers, so that neither contradicts the other."""

import numpy as np
import pandas as pd

from utils.config import Config
from utils.reporting.style import PARTS, short_name
from utils.reporting.weights import changes_by_size
from utils.runs.artifacts import read_result
from utils.runs.run import Run
from utils.tasks import Task
from utils.tasks.metrics import Metric


def listed(names: list[str]) -> str:
    """Names as in a sentence: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- notebook 02 -------------------------------------------------------------------------------------------


def choices_in_words(config: Config) -> str:
    """What this run uses of what the notebook explains."""
    averaging = f"averages by {config.averaging.upper()} from epoch {config.swa_start:g}"
    averaging = averaging if config.averaging != "none" else "averages nothing"
    return (
        f"**This run** pools with `{config.pooling}`, trains with `{config.optimizer}` at a peak rate of "
        f"{config.lr:g} (`param_groups={config.param_groups}`), and {averaging}."
    )


def history_in_words(history: pd.DataFrame, metric: Metric) -> str:
    """Whether averaging smoothed the score from one evaluation to the next, and where both ended."""
    rows = history.dropna(subset=f"averaged_{metric.name}")
    raw, averaged = rows[metric.name], rows[f"averaged_{metric.name}"]
    if rows.empty:
        return "Nothing was averaged in this run."
    ahead = "better" if metric.is_better(averaged.iloc[-1], raw.iloc[-1]) else "no better"
    end = (
        f"At the last evaluation the averaged weights' {metric.label} is {averaged.iloc[-1]:.4f}, {ahead} "
        f"than the raw weights' {raw.iloc[-1]:.4f}."
    )
    if len(rows) < 2:
        return end
    steps = [float(scores.diff().abs().mean()) for scores in (averaged, raw)]
    verdict = "smoother" if steps[0] < steps[1] else "no smoother"
    return (
        f"The averaged line is {verdict} than the raw one: from one evaluation to the next it moves by "
        f"{steps[0]:.4f} on average, the raw one by {steps[1]:.4f}. {end}"
    )


def baselines_in_words(scores: dict[str, dict], baselines: dict[str, dict], metric: Metric) -> str:
    """The weights that the suite keeps against the best baseline, from a fold's result.json."""
    weights = "averaged" if "averaged" in scores else "last"
    if not baselines:
        return ""
    name = list(baselines)[metric.best([row[metric.name] for row in baselines.values()])]
    ours, theirs = scores[weights][metric.name], baselines[name][metric.name]
    numbers = f"{metric.label} {ours:.4f} against {theirs:.4f}"
    if metric.is_better(ours, theirs):
        return f'The {weights} weights beat the best baseline, "{name}" ({numbers}).'
    return (
        f'**A baseline beats the transformer here**: "{name}", which needs no model, is ahead of the '
        f"{weights} weights ({numbers}). So these texts say little about what a transformer is worth."
    )


# --- notebook 03 -------------------------------------------------------------------------------------------


def line_in_words(scores: pd.DataFrame, start: str, end: str, metric: Metric) -> str:
    """Whether a barrier lies between two points, and where along the line the score is best.

    Args:
        scores: from ``landscape.line``.
    """
    between = scores[scores["position"].between(0, 1)]
    sentences = []
    for part in PARTS:
        worse = [metric.gain(0.0, score) for score in between[part]]  # higher is worse
        barrier = max(worse) - max(worse[0], worse[-1])
        best = scores["position"].iloc[metric.best(scores[part])]
        height = f"a barrier of {barrier:.4f}" if barrier > 1e-4 else "no barrier"
        sentences.append(
            f"on {part.replace(' ', '-')} texts there is {height}, and the best point is at {best:g}"
        )
    names = f"{short_name(start)} (0) and {short_name(end)} (1)"
    return f"Between {names}: {'; '.join(sentences)}."


def plane_in_words(scores: pd.DataFrame, metric: Metric) -> str:
    """Where in the plane training and held-out texts are scored best, from ``landscape.plane``."""
    best = {}
    for part in PARTS:
        row = scores.iloc[metric.best(scores[part])]
        distances = {
            name: np.hypot(row["x"] - x, row["y"] - y) for name, (x, y) in scores.attrs["points"].items()
        }
        nearest = min(distances, key=distances.__getitem__)
        best[part] = row[["x", "y"]].to_numpy(float)
        best[f"{part} near"] = f"{distances[nearest]:.2g} from {short_name(nearest)}"
    apart = float(np.hypot(*(best["train"] - best["held out"])))
    return (
        f"The best point of the grid lies {best['train near']} on training texts, "
        f"and {best['held out near']} on held-out ones; the two are {apart:.2g} apart."
    )


def flatness_in_words(scores: pd.DataFrame, metric: Metric) -> str:
    """Which weights lose least when they are pushed, from ``landscape.perturbed``."""
    changes = changes_by_size(scores)
    largest = changes["size"].max()
    changes = changes[changes["size"] == largest].groupby("point", sort=False)
    losses = {part: -changes[part].mean().map(lambda change: metric.gain(change, 0.0)) for part in PARTS}
    sentences = []
    for part, loss in losses.items():
        numbers = ", ".join(f"{short_name(point)} {value:.3f}" for point, value in loss.items())
        sentences.append(
            f"on {part.replace(' ', '-')} texts **{short_name(loss.idxmin())}** loses least ({numbers})"
        )
    return f"Pushed by {largest:g} of each tensor's norm, {'; '.join(sentences)}. Means of a few directions."


def growth_in_words(scores: pd.DataFrame, metric: Metric) -> str:
    """How the score grows with the snapshots averaged, from ``landscape.growing_average``."""
    first, last, n = scores["held out"].iloc[0], scores["held out"].iloc[-1], int(scores["averaged"].iloc[-1])
    better = metric.is_better(last, first)
    return (
        f"On held-out texts the {metric.label} goes from {first:.4f} with one snapshot to {last:.4f} with "
        f"{n}: averaging them {'helped' if better else 'did not help'}. The averaged weights themselves are "
        "the mean of all points that were averaged, which may be more than the snapshots kept, and "
        "score differently."
    )


def errors_in_words(run: Run, errors: pd.DataFrame, by: str = "") -> str:
    """How many texts are cut, and how length and target go with the kept weights' error.

    Args:
        errors: from ``reporting.run.errors_table``.
    """
    weights, limit = run.weights[-1], run.config.max_length
    cut = (errors["length"] > limit).mean()
    rank = errors["length"].corr(errors[weights], method="spearman")
    sentence = f"{cut:.0%} of the held-out texts are longer than {limit} tokens, and so cut"
    if not np.isnan(rank):
        sentence += f"; length and error have a rank correlation of {rank:+.2f}"
    if by:
        means = errors.groupby(by)[weights].mean()
        sentence += f". The largest mean error is that of {by} “{means.idxmax()}”"
    return f"{sentence}."


def pooling_in_words(shares: pd.DataFrame | None) -> str:
    """Which layer's share moved most, from ``weights.pooled_shares``."""
    if shares is None:
        return "This pooling reads one layer, so there are no shares to compare."
    change = shares.drop(columns="before training").sub(shares["before training"], axis=0)
    fold, layer = change.abs().max().idxmax(), change.abs().max(axis=1).idxmax()
    return (
        f"The largest change is {100 * change.loc[layer, fold]:+.1f} percentage points, of {layer} "
        f"in {fold}. "
        "A step of AdamW changes a logit by about the head's rate, so a short training moves shares little."
    )


# --- notebook 05 -------------------------------------------------------------------------------------------


def flat_rate_in_words(plan: pd.DataFrame, config: Config) -> str:
    """What one flat SWA rate does to the lowest and the highest group, from ``rates.rates_of``."""
    base = plan[plan.index < config.swa_start]
    before, peaks, last = base.iloc[-1], base.max(), plan.iloc[-1]
    low, high = peaks.idxmin(), peaks.idxmax()
    jump, above = last[low] / before[low], last[low] / peaks[low]
    return (
        f"With one flat rate of {config.swa_flat_lr:g}, **{low}** goes from {before[low]:.1e} when SWA takes "
        f"over to {last[low]:.1e}: {jump:.1f} times that rate, and {above:.1f} times its own peak. "
        f"**{high}** ends at {last[high] / peaks[high]:.2f} times its peak."
    )


# --- notebook 06 -------------------------------------------------------------------------------------------


def ensembles_in_words(ensembles: pd.DataFrame, chosen: str, metric: Metric) -> str:
    """How far apart the ensembles are, from ``submission.compare_ensembles``."""
    if len(ensembles) < 2:
        return f"There was one way to combine the models: {chosen}."
    best, second = ensembles.iloc[0], ensembles.iloc[1]
    gap = abs(best["score"] - second["score"])
    return (
        f"**{best['ensemble']}** scores best over held-out texts, {gap:.4f} in {metric.label} ahead of "
        f"{second['ensemble']}; {chosen} is submitted. No test was made of that difference."
    )


def fold_baselines_in_words(run: Run) -> str:
    """The best baseline of each fold, which no ensemble of models should fail to beat."""
    name, parts = run.task.metric.name, []
    for fold, folder in run.folders.items():
        scores = {kind: row[name] for kind, row in read_result(folder)["baselines"].items()}
        if scores:
            best = list(scores)[run.task.metric.best(list(scores.values()))]
            parts.append(f"{scores[best]:.4f} on fold {fold} ({best})")
    return f"Without a transformer, the best {run.task.metric.label} is {listed(parts)}." if parts else ""


def agreement_in_words(predictions: np.ndarray, task: Task, folds: list[int], score: float) -> str:
    """How far the folds' models differ on the test set, beside how far they are off on held-out texts.

    Args:
        predictions: (folds, rows, columns).
        score: the metric over held-out texts.
    """
    held_out = f"over held-out texts their {task.metric.label} is {score:.4f}"
    if len(folds) < 2:
        return f"One fold's model predicted; {held_out}."
    spread = float(np.median(np.std(predictions, axis=0, ddof=1)))
    return (
        f"On the median test text, the predictions of {len(folds)} folds' models have a "
        f"standard deviation of {spread:.3f}; {held_out}. Agreement is no proof: models can share an error."
    )
