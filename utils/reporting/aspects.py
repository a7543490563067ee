"""Sentences with their aspects coloured by polarity, scores by slice, and what a local window keeps."""

import html
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from transformers import PreTrainedTokenizerBase

from utils.config import Config
from utils.modeling.local_context import mask_context, weigh_context
from utils.reporting.style import BLUE, GREEN, GREY, ORANGE, PURPLE
from utils.reporting.words import plot_words
from utils.runs.run import Run
from utils.tasks.aspects import Aspects

_KNOWN = {"positive": BLUE, "1": BLUE, "negative": ORANGE, "-1": ORANGE, "neutral": GREY, "0": GREY}
_MARK = "background:{colour};color:white;padding:1px 4px;border-radius:3px;{frame}"
_WRONG = "outline:2px dashed black;outline-offset:1px;"


def polarity_colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour per polarity: blue, orange and grey for the usual three, further ones for others."""
    further = iter([GREEN, PURPLE] * 100)
    return {label: _KNOWN.get(str(label).lower()) or next(further) for label in dict.fromkeys(labels)}


def predicted_aspects(run: Run, weights: str = "averaged") -> pd.DataFrame:
    """The held-out aspects: id, text, aspect, start, true polarity, the predicted one and its probability."""
    config, values = run.config, run.values(weights)
    task: Aspects = run.task  # type: ignore[assignment] # the run is one of aspects
    rows = run.table.set_index(config.id_column).loc[run.predictions["id"]]
    (labels,), chosen = task.labels, task.predicted(values)[:, 0]
    return pd.DataFrame(
        {
            "id": run.predictions["id"].to_numpy(),
            "text": rows[config.text_column].to_numpy(),
            "aspect": rows[config.pair_column].to_numpy(),
            "start": rows["start"].to_numpy(),
            "true": task.names_of(run.targets)[:, 0],
            "polarity": np.array(labels, dtype=object)[chosen],
            "probability": values[np.arange(len(values)), chosen],
        }
    )


def show_aspects(rows: pd.DataFrame, config: Config | None = None) -> HTML:
    """Each sentence once, its aspects coloured by polarity; one that is wrong has a dashed frame.

    Args:
        rows: of aspects, with columns text, aspect, start and polarity, such as a table or ``predict``'s
            answers; and probability and true, if there are any.
        config: of the table, where its columns have other names.
    """
    if config is not None:
        own = (*config.text_columns, config.target_columns[0])
        rows = rows.rename(columns=dict(zip(own, ("text", "aspect", "polarity"), strict=True)))
    colours = polarity_colours(sorted(map(str, {*rows["polarity"], *rows.get("true", [])})))
    legend = " ".join(_mark(label, colour) for label, colour in colours.items())
    lines = [
        f"<p>{_sentence(text, lane, colours)}</p>"
        for text, group in rows.groupby("text", sort=False)
        for lane in _lanes(group)
    ]
    return HTML(f'<div class="tex2jax_ignore mathjax_ignore"><p>{legend}</p>{"".join(lines)}</div>')


def _lanes(rows: pd.DataFrame) -> list[list[dict]]:
    """A sentence's aspects in the order of their places; those that overlap others on a line of their own."""
    lanes: list[list[dict]] = []
    for row in rows.sort_values("start").to_dict("records"):
        row["end"] = int(row["start"]) + len(row["aspect"])
        free = next((lane for lane in lanes if lane[-1]["end"] <= row["start"]), None)
        if free is None:
            lanes.append([row])
        else:
            free.append(row)
    return lanes


def _sentence(text: str, rows: list[dict], colours: dict[str, str]) -> str:
    parts, end = [], 0
    for row in rows:
        parts += [html.escape(text[end : int(row["start"])]), _aspect(row, colours)]
        end = row["end"]
    return "".join([*parts, html.escape(text[end:])])


def _aspect(row: dict, colours: dict[str, str]) -> str:
    label, truth = str(row["polarity"]), row.get("true")
    said = label + (f" {row['probability']:.2f}" if "probability" in row else "")
    wrong = truth is not None and str(truth) != label
    said += f" (true: {truth})" if wrong else ""
    return _mark(row["aspect"], colours[label], _WRONG if wrong else "", said)


def _mark(text: str, colour: str, frame: str = "", remark: str = "") -> str:
    """A coloured word; the remark stands beside it, since colours alone tell not everybody."""
    small = f"<sub>{html.escape(remark)}</sub>" if remark else ""
    return f'<mark style="{_MARK.format(colour=colour, frame=frame)}">{html.escape(str(text))}</mark>{small}'


def is_mixed(run: Run) -> np.ndarray:
    """Which held-out rows belong to sentences whose aspects differ in polarity, (rows,)."""
    rows = run.table.set_index(run.config.id_column).loc[run.predictions["id"]]
    polarities = rows.groupby(run.config.text_column)[run.config.target_columns[0]].transform("nunique")
    return (polarities > 1).to_numpy()


def slices_table(runs: dict[str, Run], weights: str = "averaged") -> pd.DataFrame:
    """Accuracy and macro-F1 of each run over all held-out aspects, and over those of mixed sentences."""
    records = []
    for name, run in runs.items():
        mixed = is_mixed(run)
        for part, rows in {"all": np.ones_like(mixed), "mixed sentences": mixed}.items():
            scores = run.task.scores(run.targets[rows], run.values(weights)[rows])
            numbers = {"accuracy": scores["accuracy"], "macro F1": scores["macro_f1"]}
            records.append({"run": name, "aspects": part, "rows": rows.sum(), **numbers})
    return pd.DataFrame(records).round(4)


def plot_window(task: Aspects, row: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, window: int):
    """What a local window keeps of a sentence (CDM), and how it weighs it (CDW), token by token.

    Args:
        row: a table of one row.
    """
    examples = task.encode(row, tokenizer)
    distance = torch.as_tensor(examples.extras["distance"])[None]
    tokens = tokenizer.convert_ids_to_tokens(examples.tokens["input_ids"].tolist())
    panels = {"mask (CDM)": mask_context, "weights (CDW)": weigh_context}
    return plot_words(
        {title: (tokens, function(distance, window)[0].numpy(), False) for title, function in panels.items()}
    )


def leak_in_words(honest: Run, leaking: Run, weights: str = "averaged") -> str:
    """What folds that part a sentence's aspects claim, beside folds that do not, in a sentence."""
    metric = honest.task.metric
    scores = [run.task.score(run.targets, run.values(weights)) for run in (honest, leaking)]
    texts, folds = leaking.table[leaking.config.text_column], leaking.table["fold"]
    shared = [texts[folds == fold].isin(texts[folds != fold]) for fold in leaking.folders]
    return (
        f"Random folds train on the sentences of {pd.concat(shared).mean():.0%} of the held-out aspects, "
        f"with another aspect. They claim {metric.label} {scores[1]:.3f}; folds by sentence find "
        f"{scores[0]:.3f}, a difference of {metric.gain(scores[1], scores[0]):+.3f}."
    )
