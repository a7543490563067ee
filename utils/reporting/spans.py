"""Questions with their texts, true and predicted answers marked; windows; how sure a model is of none."""

import html
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.ticker import MaxNLocator
from transformers import PreTrainedTokenizerBase

from utils.data.windows import START, STOP
from utils.modeling.model import TextModel
from utils.reporting.style import BLUE, ORANGE
from utils.reporting.words import plot_words
from utils.runs.run import Run
from utils.tasks.questions import END, GIVEN
from utils.tasks.spans import Spans

_STYLES = {
    "both": f"background:{BLUE};color:white;border-radius:3px;padding:1px 3px",
    "true": f"border-bottom:3px solid {BLUE}",
    "predicted": f"background:{ORANGE};color:white;border-radius:3px;padding:1px 3px",
}
_NAMES = {"both": "found", "true": "the answer, missed", "predicted": "predicted, not the answer"}


def answers_table(run: Run, weights: str = "averaged") -> pd.DataFrame:
    """The held-out questions and their answers.

    Columns: id, question, context; start and stop, of the first true answer, and from and to, of the
    predicted one, in characters of the context, -1 for none; answer, the predicted text; f1; and "no answer",
    by how much that is better.
    """
    task: Spans = run.task  # type: ignore[assignment] # the run is one of spans
    config, values = run.config, run.values(weights)
    ids = run.predictions["id"].to_numpy()
    rows, spans = run.table.set_index(config.id_column).loc[ids], task.predicted(values)
    return pd.DataFrame(
        {
            "id": ids,
            "question": rows[config.pair_column].to_numpy(),
            "context": rows[GIVEN].to_numpy(),
            "start": rows[task.start].to_numpy(),
            "stop": rows[END].to_numpy(),
            "from": spans[:, 0],
            "to": spans[:, 1],
            "answer": task.texts(ids, spans),
            "f1": task.judge(run.targets, spans)[:, 0],
            "no answer": values[:, 3],
        }
    )


def show_answers(rows: pd.DataFrame, around: int = 160) -> HTML:
    """Each question with the part of its context that matters, where answers are marked.

    Args:
        rows: as ``answers_table`` gives them; without from and to, the true answers alone are marked.
        around: characters of the context on either side of the answers; the rest is left out.
    """
    kinds = ("both", "true", "predicted") if "from" in rows else ("true",)
    names = _NAMES if "from" in rows else {"true": "the answer"}
    legend = " &nbsp; ".join(f'<span style="{_STYLES[kind]}">{names[kind]}</span>' for kind in kinds)
    blocks = [_block(row, around) for row in rows.to_dict("records")]
    return HTML(f'<div class="tex2jax_ignore mathjax_ignore"><p>{legend}</p>{"".join(blocks)}</div>')


def _block(row: dict, around: int) -> str:
    true, predicted = (row["start"], row["stop"]), (row.get("from", -1), row.get("to", -1))
    spans = [(int(start), int(stop)) for start, stop in (true, predicted) if start >= 0]
    text = row["context"]
    first = max(min((start for start, _ in spans), default=0) - around, 0)
    last = min(max((stop for _, stop in spans), default=2 * around) + around, len(text))
    marks = sorted({first, last, *(place for span in spans for place in span)})
    parts = [
        _mark(
            text[start:stop], start >= true[0] >= 0 and stop <= true[1], predicted[0] <= start < predicted[1]
        )
        for start, stop in pairwise(marks)
    ]
    context = ("… " if first else "") + "".join(parts) + (" …" if last < len(text) else "")
    notes = [] if true[0] >= 0 else ["The text does not say."]
    if "from" in row and predicted[0] < 0:
        notes.append("Predicted: no answer.")
    note = "".join(f" <i>{note}</i>" for note in notes)
    return f"<p><b>{html.escape(str(row['question']))}</b>{note}<br>{context}</p>"


def _mark(text: str, is_true: bool, is_predicted: bool) -> str:
    kind = {(True, True): "both", (True, False): "true", (False, True): "predicted"}.get(
        (is_true, is_predicted)
    )
    shown = html.escape(text).replace("\n", " ")
    return f'<span style="{_STYLES[kind]}">{shown}</span>' if kind else shown


def windows_table(task: Spans, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, length: int):
    """The windows of a table's first row: what they read, and whether they hold the answer.

    Args:
        length: of a window, in tokens, the question's and the special ones included.
    """
    row = table[:1]
    examples, text, windows = task.encode(row, tokenizer, length), row[GIVEN].iloc[0], []
    for number in range(len(examples)):
        part = examples.slice(number)
        starts, stops = (examples.extras[name][part] for name in (START, STOP))
        inside = stops > starts
        window = text[starts[inside].min() : stops.max()]
        windows.append(
            {
                "tokens": len(starts),
                "of the text": int(inside.sum()),
                "begins": f"{window[:32]}…",
                "ends": f"…{window[-32:]}",
                "holds the answer": bool(examples.targets[number].any()),
            }
        )
    return pd.DataFrame(windows, index=pd.RangeIndex(1, len(windows) + 1, name="window"))


@torch.no_grad()
def plot_starts_and_ends(
    model: TextModel, task: Spans, row: pd.DataFrame, tokenizer: PreTrainedTokenizerBase
):
    """How probable each token of a context is as the answer's start, and as its end; its first window alone.

    Args:
        row: of a table, one.
    """
    examples, text = task.encode(row, tokenizer), row[GIVEN].iloc[0]
    part = examples.slice(0)
    inputs = {name: torch.from_numpy(values[part])[None].long() for name, values in examples.tokens.items()}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = model(**inputs)["logits"][0].double()
    starts, stops = (examples.extras[name][part] for name in (START, STOP))
    inside = stops > starts
    words = [text[start:stop] for start, stop in zip(starts[inside], stops[inside], strict=True)]
    shares = logits[torch.from_numpy(inside)].softmax(dim=0).numpy()
    return plot_words({"start": (words, shares[:, 0], False), "end": (words, shares[:, 1], False)})


def plot_no_answer(rows: pd.DataFrame, cut: float | None = None):
    """By how much "no answer" is better, of questions with an answer and without.

    Args:
        rows: as ``answers_table`` gives them.
        cut: another than 0, to be drawn beside it.
    """
    figure, axes = plt.subplots(figsize=(9.5, 3))
    bins = np.histogram_bin_edges(rows["no answer"], bins=40)
    for known, name, colour in ((True, "the text has the answer", BLUE), (False, "it has none", ORANGE)):
        values = rows.loc[(rows["start"] >= 0) == known, "no answer"]
        axes.hist(values, bins, color=colour, alpha=0.6, label=f"{name} ({len(values)})")
    axes.axvline(0, color="black", linewidth=1, label="usual cut")
    if cut is not None:
        axes.axvline(cut, color="black", linewidth=1, linestyle="--", label="fitted cut")
    axes.set(title="How sure the model is that there is no answer", ylabel="questions")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("score of no answer minus that of the best span; no answer is predicted right of the cut")
    axes.legend(frameon=False)
    return figure
