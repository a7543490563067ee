"""Methods that say which words matter, judged by leaving the words out."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from utils.reporting.sentences import listed


def compare_methods(values: dict[str, np.ndarray], effects: np.ndarray) -> pd.DataFrame:
    """How far each method agrees with leaving out the words of a text, one at a time.

    Args:
        values: of each method, (words,).
        effects: by how much the score falls without each word, (words,).

    Returns:
        A row per method, the best first: the "rank correlation" with the effects (Spearman's; nan where one
        of the two is constant), and the share of words for which it has the sign of the effect.
    """
    rows = {
        method: {
            "rank correlation": _rank_correlation(of_method, effects),
            "same sign": float(np.mean(np.sign(of_method) == np.sign(effects))),
        }
        for method, of_method in values.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.sort_values("rank correlation", ascending=False)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    constant = np.ptp(one) == 0 or np.ptp(other) == 0
    return float("nan") if constant else float(spearmanr(one, other).statistic)


def ablation_in_words(
    words: list[str],
    values: dict[str, np.ndarray],
    effects: np.ndarray,
    methods: tuple[str, str],
    explained: str = "score",
) -> str:
    """Which of two methods was right about the words that they disagree on, and which words these are.

    Args:
        methods: two names in ``values``.
        explained: what the effects are changes of.
    """
    (first, second), table = methods, compare_methods(values, effects)
    ranks = listed([f"{method} {row['rank correlation']:.2f}" for method, row in table.iterrows()])
    said = f"Rank correlation with leaving out each of the {len(words)} words in turn: {ranks}."
    disputed = np.flatnonzero(np.sign(values[first]) * np.sign(values[second]) < 0)
    if not disputed.size:
        return f"{said} {first} and {second} give no word opposite signs."
    sides = [int((np.sign(values[name][disputed]) == np.sign(effects[disputed])).sum()) for name in methods]
    most = disputed[np.argsort(-np.abs(effects[disputed]))[:4]]
    named = listed([f"“{words[number]}” ({-effects[number]:+.2f})" for number in most])
    return (
        f"{said} {first} and {second} give {len(disputed)} words opposite signs. Leaving these out one at a "
        f"time moves the {explained} as {first} says for {sides[0]} of them, and as {second} says for "
        f"{sides[1]}. It moves most without {named}."
    )
