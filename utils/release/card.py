"""The card: README.md of a folder that leaves, made of what its fold knows."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from utils.config import GROUPED, Config, InputError
from utils.data.sources import local_table
from utils.data.table import fingerprint
from utils.modeling.model import TextModelConfig
from utils.modeling.native import NATIVE, read_config
from utils.release import FACTS, MODEL, SCRIPT
from utils.runs import artifacts
from utils.runs.portable import SEQUENCE, kind_of, task_of
from utils.tasks import Task, add_folds, load_table, make_task

#: What the built-in and open data are, and their licence.
DATA = {
    "sample": (
        "this suite's sample of English texts, written for trying things out, not rated by people",
        "CC0 1.0",
    ),
    "aspects": ("this suite's sentences of reviews with the polarity of each aspect", "CC0 1.0"),
    "questions": ("this suite's questions on its sample of texts", "CC0 1.0"),
    "vader": ("short texts rated for sentiment by twenty people (Hutto and Gilbert 2014)", "MIT"),
    "clear": ("the CLEAR corpus (Crossley et al. 2022)", "CC BY-NC-SA 4.0"),
}
RECIPE = ("encoder", "pooling", "max_length", "loss", "optimizer", "lr", "schedule", "epochs", "batch_size")


def card(folder: Path, name: str = "", source: Path | None = None) -> str:
    """A model card in Markdown.

    Args:
        folder: of weights or of an export.
        name: on the hub; empty: the folder's.
        source: the weights, of whose fold the card tells; None: ``folder``.
    """
    names = read_config(folder)
    task, source = task_of(names), (source or folder).resolve()
    fold, weights = source.parent, source.name
    known = weights in artifacts.WEIGHTS and artifacts.is_fold(fold) and artifacts.is_finished(fold)
    name = name or folder.resolve().name
    parts = [_front_matter(folder, names, task), f"# {name.rpartition('/')[2]}", _what(names, task)]
    limits = _limits(folder, task)
    if known:
        facts = Fold(fold, weights)
        parts += facts.paragraphs()
        limits += facts.limits()
    else:
        parts.append("How it was trained and how well it scores is not known: it was taken out of its fold.")
    parts += [
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits),
        "## Use",
        _use(folder, names, task, name),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(folder: Path, config: TextModelConfig, task: Task) -> str:
    """What the hub reads: the library and the kind of pipeline. A licence is for the owner to choose."""
    lines = [f"library_name: {'onnx' if (folder / MODEL).is_file() else 'transformers'}"]
    if _in_pipeline(config, task):
        lines.append("pipeline_tag: text-classification")
    elif task.per_token:
        lines.append("pipeline_tag: question-answering")
    return "\n".join(["---", *lines, "---"])


def _in_pipeline(config: TextModelConfig, task: Task) -> bool:
    if config.pooling == NATIVE:
        return kind_of(task) == SEQUENCE and len(config.id2label) == len(config.head["outputs"])
    return f"AutoModel{SEQUENCE}" in (getattr(config, "auto_map", None) or {})


def _what(config: TextModelConfig, task: Task) -> str:
    reads = " and ".join(f"`{name}`" for name in task.config.text_columns)
    labels = config.head.get("labels")
    answers = ", ".join(f"`{name}`" for name in task.config.target_columns)
    classes = f" ({'; '.join(', '.join(names) for names in labels)})" if labels else ""
    return f"Task: {task.name}. It reads {reads}, and answers {answers}{classes}."


def _limits(folder: Path, task: Task) -> list[str]:
    read = "in windows that overlap" if task.per_token else "what follows is cut off"
    limits = [
        f"It reads {task.config.max_length} tokens of a text at once; {read}.",
        "It knows the language and the kind of texts that it was trained on. Nobody has tried others.",
    ]
    if (folder / FACTS).is_file():
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        kind = "in eight bits" if facts["int8"] else "in float32"
        limits.append(
            f"In ONNX {kind}, outputs differ from torch's by up to {facts['difference']:.1g} scales."
        )
    return limits


def _use(folder: Path, config: TextModelConfig, task: Task, name: str) -> str:
    """How to predict, in three lines."""
    if (folder / SCRIPT).is_file():
        lines = ["pip install onnxruntime tokenizers", f"python {name}/{SCRIPT} < texts.txt  # a text a line"]
        return "\n".join(["```bash", *lines, "```"])
    if not _in_pipeline(config, task) or (folder / MODEL).is_file():
        columns = ", ".join(task.config.text_columns)
        call = f'predict("{name}", table)  # with the columns {columns}'
        return f"With the suite that trained it:\n\n```python\nfrom utils import predict\n\n{call}\n```"
    options = f"{'' if config.pooling == NATIVE else 'trust_remote_code=True, '}top_k=None"
    return (
        "```python\nfrom transformers import pipeline\n\n"
        f'model = pipeline("text-classification", "{name}", {options})\n'
        'model("A text.", truncation=True)\n```\n\nIn training, each run of white space was one space.'
    )


class Fold:
    """What a finished fold tells of its weights. Without its data, unchanged, some of it is not known."""

    def __init__(self, folder: Path, weights: str):
        self.weights = weights
        self.metadata, self.result = artifacts.read_metadata(folder), artifacts.read_result(folder)
        self.predictions = artifacts.read_predictions(folder)
        self.config = Config.make(**self.metadata["config"])
        self.table: pd.DataFrame | None = None
        with contextlib.suppress(InputError):
            if local_table(self.config.data):
                table = add_folds(load_table(self.config), self.config)
                same = self.metadata["data"]["fingerprint"] == fingerprint(table, self.config)
                self.table = table if same else None

    def paragraphs(self) -> list[str]:
        """Data, scores and recipe."""
        config, metadata, result = self.config, self.metadata, self.result
        unknown = f"`{Path(config.data).name}`", "not known here; ask those who made them"
        what, licence = DATA.get(config.data, unknown)
        split = (
            f"{config.fold_by} of `{config.group_column}`" if config.fold_by in GROUPED else config.fold_by
        )
        data = (
            f"{what[:1].upper()}{what[1:]}; licence: {licence}. {metadata['data']['rows']} rows in "
            f"{config.n_folds} folds ({split}). Fold {config.fold}, {metadata['data']['held_out']} rows, was "
            f"held out; scores are of these rows.{self.choice()}"
        )
        average = f"{config.averaging} from epoch {config.swa_start:g}"
        recipe = (
            f"Preset `{config.preset}`: {', '.join(f'{one} {getattr(config, one)}' for one in RECIPE)}, "
            f"averaging {average if config.averaging != 'none' else 'none'}; these are the {self.weights} "
            f"weights, of {result['parameters']:,} parameters. Training took {result['seconds'] / 60:.1f} "
            f"minutes on {metadata['device']} in {metadata['precision']['name']}, with torch "
            f"{metadata['versions']['torch']} and transformers {metadata['versions']['transformers']}."
        )
        return ["## Data", data, "## Scores", self.scores(), "## Recipe", recipe]

    def choice(self) -> str:
        """What of the model was chosen by the rows that it is scored on."""
        if self.weights == "best":
            return (
                " Of all evaluations' weights these scored best on the same rows, so that the scores flatter."
            )
        chosen = {"its rates": self.config.schedule == "plateau", "its end": self.config.patience > 0}
        parts = " and ".join(part for part, is_chosen in chosen.items() if is_chosen)
        return (
            f" Of the training, {parts} depended on the same rows, so that the scores flatter."
            if parts
            else ""
        )

    def scores(self) -> str:
        """The metric with its interval, and the baselines' beside it."""
        metric = self.result["metric"]
        scores = {"**this model**": self.result["scores"][self.weights], **self.result["baselines"]}
        rows = [f"| {name} | {one[metric['name']]:.3f} |" for name, one in scores.items()]
        better = "Higher" if metric["higher_is_better"] else "Lower"
        table = "\n".join([f"| | {metric['label']} |", "|---|---|", *rows])
        return f"{table}\n\n{better} is better. {self.interval()}"

    def interval(self) -> str:
        """The 95 % interval of the metric, and what was drawn for it."""
        if self.table is None:
            return "An interval is not known: the data are not here, or have changed."
        task = make_task(self.config, self.table)
        groups = self._by_id(task.groups(self.table))
        targets, values = (task.values(self.predictions, name) for name in ("target", self.weights))
        low, high = task.interval(targets, values, groups.to_numpy())
        drawn = "rows" if groups.is_unique else "groups of rows"
        return f"The model's 95 % interval is {low:.3f} to {high:.3f} (bootstrap over {drawn})."

    def limits(self) -> list[str]:
        """The groups with the largest errors."""
        column = self.config.group_column
        if self.table is None or column not in self.table:
            return []
        task = make_task(self.config, self.table)
        pairs = (task.values(self.predictions, name) for name in ("target", self.weights))
        errors = pd.Series(np.nanmean(task.errors(*pairs), axis=1))
        worst = errors.groupby(self._by_id(self.table[column]).to_numpy()).mean().nlargest(3)
        listed = ", ".join(f"{str(name)[:60]} ({error:.2g})" for name, error in worst.items())
        return [f"The largest mean {task.error} by `{column}`: {listed}; over all rows {errors.mean():.2g}."]

    def _by_id(self, values: pd.Series) -> pd.Series:
        """Values of the table's rows, for the rows of predictions.csv."""
        assert self.table is not None
        return self.predictions["id"].map(dict(zip(self.table[self.config.id_column], values, strict=True)))
