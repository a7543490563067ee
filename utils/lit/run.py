"""The folds of a run in LIT: built, served, warmed up, stopped. ``python -m utils lit`` calls ``start``."""

import hashlib
from pathlib import Path

import pandas as pd
from absl import logging
from lit_nlp import dev_server, server_config
from pandas.util import hash_pandas_object as hash_rows
from tqdm.auto import tqdm

from utils.config import InputError, check_choice
from utils.explain.encoding import read_by
from utils.explain.explainer import Explainer
from utils.lit import label_views, spans  # noqa: F401 - they register their views
from utils.lit.attention import AttentionPage, forget
from utils.lit.components import interpreters
from utils.lit.generators import generators
from utils.lit.new_texts import NewTexts
from utils.lit.out_of_fold import OUT_OF_FOLD, OutOfFold
from utils.lit.results import METRICS, make_layouts
from utils.lit.server import Lit, check_port
from utils.lit.spec import RESERVED, View, first_output, make_view
from utils.lit.wrappers import FoldModel, TextDataset
from utils.machine import runtime
from utils.machine.files import digest
from utils.runs import artifacts
from utils.runs.run import Run
from utils.runs.submission import load_test
from utils.tasks import Task

logging.set_verbosity(logging.ERROR)  # LIT warns of every text that its cache cannot hold

_current: dict = {}  # the server that runs in this process, and what it was started from


def start(
    run: Run,
    weights: str = "averaged",
    texts: int = 60,
    port: int = 0,
    host: str = "127.0.0.1",
    allow: str = "",
    target: str = "",
    test: str = "",
) -> Lit:
    """Serve a run's fold models together with the texts that each held out.

    One server runs per process. Called again with the same weights, data and options, it returns the running
    one, with all that it has computed; anything else stops that one first.

    Args:
        weights: "last", "best" or "averaged", or several separated by commas: as many models per fold, and
            the page opens with them side by side.
        texts: how many random held-out texts per fold; 0: all.
        port: 0 takes a free one.
        host: "0.0.0.0" serves other machines too.
        allow: host names, separated by commas, that requests may use besides this machine's own, such as a
            notebook server's.
        target: what to explain: a target, or one of its labels; empty: the first target. Of two labels it is
            the second, unless one is named.
        test: a file of texts without a truth, to be one more data set.

    Raises InputError for an option that cannot be used.
    """
    names, output = split_weights(run, weights), output_number(run.task, target)
    texts, port = _check_whole("texts", texts, 10**9), _check_whole("port", port, 65535)
    options = (names, texts, port, host, allow, output, test)
    hashes = [hash_weights(folder / name) for folder in run.folders.values() for name in names]
    unseen = load_test(run.config, test) if test else run.table.head(0)
    rows = [
        hashlib.sha256(hash_rows(table, index=False).to_numpy()).hexdigest() for table in (run.table, unseen)
    ]
    if _current and _current["lit"].running and _current["from"] == (options, hashes, rows):
        return _current["lit"]
    if not (_current and _current["lit"].port == port):
        check_port(host, port)  # before a server is stopped and models are loaded
    stop()
    several = [model_name(None if len(run.folders) > 1 else min(run.folders), name) for name in names]
    lit = Lit(build(run, names, texts, output, unseen), host, port, allow, several if len(names) > 1 else ())
    _current.update({"lit": lit, "from": (options, hashes, rows)})
    warm_up(lit)
    return lit


def stop() -> None:
    """Stop the server that ``start`` left running, if any."""
    if _current:
        _current["lit"].stop()
        _current.clear()
    forget()


def split_weights(run: Run, weights: str) -> tuple[str, ...]:
    """The weights named. Raises InputError for unknown ones, and for those that a fold lacks."""
    names = tuple(name.strip() for name in weights.split(",") if name.strip())
    for name in names or ("",):
        check_choice("weights", name, run.weights)
    return names


def output_number(task: Task, target: str) -> int:
    """The number of an output by its name or that of its target; empty: of the first target."""
    columns, names = task.config.target_columns, list(task.outputs)
    if clash := {*columns, task.config.text_column, task.config.id_column} & set(RESERVED):
        raise InputError(
            f"LIT has fields called {', '.join(RESERVED)} of its own; rename the column {min(clash)!r}."
        )
    if target in names:
        return names.index(target)
    if target:
        check_choice("target", target, dict.fromkeys([*names, *columns]))
    return first_output(task, columns.index(target) if target else 0)


def _check_whole(name: str, value, most: int) -> int:
    if not str(value).isdigit() or int(value) > most:
        raise InputError(f"{name}={value!r} cannot be used; it must be a whole number from 0 to {most}.")
    return int(value)


def hash_weights(folder: Path) -> str:
    """A hash of a folder's weights, by which ``start`` knows whether the running server has the same."""
    return digest(folder / "model.safetensors")[:16]


def model_name(fold: int | None, weights: str) -> str:
    """The name of a fold's model in LIT; None: of all folds as one."""
    return f"{OUT_OF_FOLD if fold is None else f'fold {fold}'} · {weights}"


def dataset_name(fold: int) -> str:
    """The name of the texts that a fold held out, in LIT."""
    return f"fold {fold} held out"


def build(run: Run, weights: tuple[str, ...], texts: int, output: int, unseen: pd.DataFrame):
    """The LIT application of a run, as a WSGI app. Prints how much memory it is going to need.

    ``unseen``: texts without a truth, which no fold has read; perhaps none.

    The first model and data set are those that the page opens with: with several folds, out of fold.
    """
    view = make_view(run.task, output, run.table)
    tables = {fold: held_out(run, fold, texts) for fold in run.folders}
    models = {
        model_name(fold, name): load(run, fold, name, view, output)
        for name in weights
        for fold in run.folders
    }
    datasets = {
        dataset_name(fold): TextDataset(
            table,
            view,
            f"{len(table)} texts that fold {fold} did not see. The other folds did: they flatter.",
        )
        for fold, table in tables.items()
    }
    if len(tables) > 1:
        description = "The texts of all folds. Out of fold, each is scored by the model that did not see it."
        datasets = {OUT_OF_FOLD: TextDataset(pd.concat(tables.values()), view, description), **datasets}
        models = {**out_of_fold(run, weights, models), **models}
    if len(unseen):
        columns = [*unseen, *(column for column in run.table if column not in unseen)]
        about = f"{len(unseen)} texts without a truth. Out of fold, the first fold reads them."
        datasets["test"] = TextDataset(unseen.reindex(columns=columns), view, about)
    counts = f"{len(run.folders) * len(weights)} models, {sum(map(len, tables.values()))} texts"
    print(f"LIT: {counts}, about {memory(models, datasets):.1f} GiB of memory beside Python's own.")
    options = {
        "server_type": "external",
        "demo_mode": True,
        "data_dir": "",
        "page_title": f"LIT: {run.config.run_name}",
        "default_layout": "wide",
        "layouts": make_layouts(view),
        "model_loaders": {},
        "dataset_loaders": {},
        "interpreters": interpreters(models, min(map(len, datasets.values()))),
        "generators": generators(view, run.table[run.config.text_column]),
        "metrics": METRICS,
        "annotators": [NewTexts(datasets.values(), view)],
    }
    app = dev_server.Server(models, datasets, **dict(server_config.get_flags()) | options).serve()
    return AttentionPage(app, {name: model for name, model in models.items() if model.fold})


def held_out(run: Run, fold: int, texts: int) -> pd.DataFrame:
    """The rows of a fold, or so many random ones of them; 0: all."""
    table = run.table[run.table["fold"] == fold]
    return table.sample(texts, random_state=run.config.seed).sort_index() if 0 < texts < len(table) else table


def load(run: Run, fold: int, weights: str, view: View, output: int) -> FoldModel:
    """A fold's weights as a model for LIT. Raises InputError if there are none."""
    path = artifacts.weights_folder(run.folders[fold], weights)
    description = f"The {weights} weights of fold {fold}, {hash_weights(path)}."
    return FoldModel(Explainer(path, run.task, output), view, description, str(fold))


def out_of_fold(run: Run, weights: tuple[str, ...], models: dict[str, FoldModel]) -> dict[str, FoldModel]:
    """For each kind of weights, the folds as one model."""
    description = "Each text scored by the {} weights of the fold that did not see it."
    return {
        model_name(None, name): OutOfFold(
            {str(fold): models[model_name(fold, name)] for fold in run.folders}, description.format(name)
        )
        for name in weights
    }


def are_paired(model: str, dataset: str) -> bool:
    """Whether a model is to read a data set from the start: a fold those of the folds, all of them theirs."""
    return model.startswith(OUT_OF_FOLD) == dataset.startswith(OUT_OF_FOLD) and dataset[0] != "_"


def warm_up(lit: Lit) -> None:
    """Compute every prediction, and a first map of the embeddings, before anybody waits for them."""
    models = lit.ask("get_info")["models"]
    pairs = [
        (model, name) for model in models for name in models[model]["datasets"] if are_paired(model, name)
    ]
    mapped = next(pair for pair in pairs if not pair[0].startswith(OUT_OF_FOLD))
    for model, dataset in tqdm(
        pairs, desc="LIT reads", unit="fold", disable=not runtime.progress_wanted(), leave=False
    ):
        rows = lit.ask("get_dataset", dataset_name=dataset)
        predicted = {"requested_types": "RegressionScore,MulticlassPreds"}
        lit.ask("get_preds", {"inputs": rows}, model=model, dataset_name=dataset, **predicted)
        if (model, dataset) == mapped and "umap" in models[model]["interpreters"]:  # compiled at first use
            lit.project("umap", model, dataset)


def memory(models: dict[str, FoldModel], datasets: dict[str, TextDataset]) -> float:
    """GiB of the weights and of kept predictions: embedding and gradient of each token, by every model."""
    size = 0
    for name, fold_model in models.items():
        model, config = fold_model.explainer.model, fold_model.view.task.config
        if not name.startswith(OUT_OF_FOLD):  # the folds' own
            size += sum(weight.numel() * weight.element_size() for weight in model.parameters())
        read = [dataset for other, dataset in datasets.items() if are_paired(name, other)]
        texts = [read_by(config, row) for dataset in read for row in dataset.examples]
        tokens = sum(len(ids) for ids in fold_model.explainer.tokenize(texts)["input_ids"])
        size += tokens * model.encoder.get_input_embeddings().embedding_dim * 2 * 4
    return size / 2**30
