"""The folds of a run in LIT: built, served, warmed up, stopped. ``python -m utils lit`` calls ``start``."""

import hashlib
from pathlib import Path

import pandas as pd
from absl import logging
from lit_nlp import dev_server, server_config
from tqdm.auto import tqdm

from utils.config import InputError, check_choice
from utils.lit import label_views, spans  # noqa: F401 - they register their views
from utils.lit.components import generators, interpreters
from utils.lit.encoding import read_by
from utils.lit.explain import Explainer
from utils.lit.new_texts import NewTexts
from utils.lit.results import METRICS, make_layout
from utils.lit.server import Lit, check_port
from utils.lit.spec import RESERVED, first_output, make_view
from utils.lit.wrappers import FoldModel, TextDataset
from utils.machine import runtime
from utils.machine.files import digest
from utils.runs import artifacts
from utils.runs.run import Run
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
) -> Lit:
    """Serve a run's fold models together with the texts that each held out.

    One server runs per process. Called again with the same weights, data and options, it returns the running
    one, with all that it has computed; anything else stops that one first.

    Args:
        weights: "last", "best" or "averaged", or several separated by commas: as many models per fold.
        texts: how many random held-out texts per fold; 0: all.
        port: 0 takes a free one.
        host: "0.0.0.0" serves other machines too.
        allow: host names, separated by commas, that requests may use besides this machine's own, such as a
            notebook server's.
        target: what to explain: a target, or one of its labels; empty: the first target. Of two labels it is
            the second, unless one is named.

    Raises InputError for an option that cannot be used.
    """
    names, output = split_weights(run, weights), output_number(run.task, target)
    texts, port = _check_whole("texts", texts, 10**9), _check_whole("port", port, 65535)
    options = (names, texts, port, host, allow, output)
    hashes = [hash_weights(folder / name) for folder in run.folders.values() for name in names]
    rows = hashlib.sha256(pd.util.hash_pandas_object(run.table, index=False).to_numpy()).hexdigest()
    if _current and _current["lit"].running and _current["from"] == (options, hashes, rows):
        return _current["lit"]
    if not (_current and _current["lit"].port == port):
        check_port(host, port)  # before a server is stopped and models are loaded
    stop()
    lit = Lit(build(run, names, texts, output), host, port, allow)
    _current.update({"lit": lit, "from": (options, hashes, rows)})
    warm_up(lit)
    return lit


def stop() -> None:
    """Stop the server that ``start`` left running, if any."""
    if _current:
        _current["lit"].stop()
        _current.clear()


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


def model_name(fold: int, weights: str) -> str:
    return f"fold {fold} · {weights}"


def dataset_name(fold: int) -> str:
    return f"fold {fold} held out"


def build(run: Run, weights: tuple[str, ...], texts: int, output: int):
    """The LIT application of a run, as a WSGI app. Prints how much memory it is going to need."""
    view = make_view(run.task, output, run.table)
    datasets, models = {}, {}
    for fold, folder in run.folders.items():
        table = run.table[run.table["fold"] == fold]
        if 0 < texts < len(table):
            table = table.sample(texts, random_state=run.config.seed).sort_index()
        description = f"{len(table)} texts that fold {fold} did not see."
        datasets[dataset_name(fold)] = TextDataset(table, view, description)
        for name in weights:
            path = artifacts.weights_folder(folder, name)
            description = f"The {name} weights of fold {fold}, {hash_weights(path)}."
            models[model_name(fold, name)] = FoldModel(Explainer(path, run.task, output), view, description)
    counts = f"{len(models)} models, {sum(map(len, datasets.values()))} texts"
    print(f"LIT: {counts}, about {memory(models, datasets):.1f} GiB of memory beside Python's own.")
    options = {
        "server_type": "external",
        "demo_mode": True,
        "data_dir": "",
        "page_title": f"LIT: {run.config.run_name}",
        "default_layout": "default",
        "layouts": {"default": make_layout(view)},
        "model_loaders": {},
        "dataset_loaders": {},
        "interpreters": interpreters(models, min(map(len, datasets.values()))),
        "generators": generators(view),
        "metrics": METRICS,
        "annotators": [NewTexts(datasets.values(), view)],
    }
    return dev_server.Server(models, datasets, **dict(server_config.get_flags()) | options).serve()


def warm_up(lit: Lit) -> None:
    """Compute every prediction, and a first map of the embeddings, before anybody waits for them."""
    models = lit.ask("get_info")["models"]
    pairs = [(model, name) for model, info in models.items() for name in info["datasets"] if name[0] != "_"]
    for model, dataset in tqdm(
        pairs, desc="LIT reads", unit="fold", disable=not runtime.progress_wanted(), leave=False
    ):
        rows = lit.ask("get_dataset", dataset_name=dataset)
        predicted = {"requested_types": "RegressionScore,MulticlassPreds"}
        lit.ask("get_preds", {"inputs": rows}, model=model, dataset_name=dataset, **predicted)
        if (model, dataset) == pairs[0] and "umap" in models[model]["interpreters"]:  # compiled at first use
            lit.project("umap", model, dataset)


def memory(models: dict[str, FoldModel], datasets: dict[str, TextDataset]) -> float:
    """GiB of the weights and of kept predictions: embedding and gradient of each token, by every model."""
    size = 0
    for fold_model in models.values():
        model, config = fold_model.explainer.model, fold_model.view.task.config
        size += sum(weight.numel() * weight.element_size() for weight in model.parameters())
        texts = [read_by(config, row) for dataset in datasets.values() for row in dataset.examples]
        tokens = sum(len(ids) for ids in fold_model.explainer.tokenize(texts)["input_ids"])
        size += tokens * model.encoder.get_input_embeddings().embedding_dim * 2 * 4
    return size / 2**30
