"""The folds of a run in LIT: built, served, warmed up, stopped.

``python -m utils.serve -p preset demo --port 5432`` serves them until Ctrl-C; ``make lit`` calls it.
"""

import argparse
import hashlib
import sys
import time
import webbrowser
from pathlib import Path

import pandas as pd
from absl import logging
from lit_nlp import dev_server, server_config
from lit_nlp.components.metrics import RegressionMetrics
from tqdm.auto import tqdm

from utils import checkpoint, runtime
from utils.config import Config, InputError, nearest
from utils.explain import Explainer
from utils.folds import Run, open_run
from utils.interpret import RESERVED, Excerpts, Regressor
from utils.lit_components import LAYOUT, generators, interpreters
from utils.server import Lit, refuse_taken

logging.set_verbosity(logging.ERROR)  # LIT warns of every text that its cache cannot hold

WEIGHTS = {"last": "last", "best": "best", "swa": "averaged"}

_current: dict = {}  # the server that runs in this process, and what it was started from


def start(
    run: Run,
    weights: str = "swa",
    texts: int = 60,
    port: int = 0,
    host: str = "127.0.0.1",
    allow: str = "",
    target: str = "",
) -> Lit:
    """Serve a run's fold models beside the texts that each held out.

    One server runs in a process. Called again with the same weights, data and options, it is left as it is, with all
    it has computed; anything else stops it first.

    Args:
        weights: kinds, "last", "best" or "swa", with commas between: so many models a fold.
        texts: so many random held-out texts of each fold; 0: all.
        port: 0 takes a free one.
        host: "0.0.0.0" serves other machines too.
        allow: names under which it may be asked beside this machine's own, such as a notebook server's, with commas
            between.
        target: the target to explain; empty: the first.
    """
    kinds, number = kinds_of(run, weights), target_of(run, target)
    texts, port = _whole("texts", texts, 10**9), _whole("port", port, 65535)
    options = (kinds, texts, port, host, allow, number)
    prints = [fingerprint(folder, kind) for folder in run.folders.values() for kind in kinds]
    rows = hashlib.sha256(pd.util.hash_pandas_object(run.table, index=False).to_numpy()).hexdigest()
    if _current and _current["lit"].running and _current["from"] == (options, prints, rows):
        return _current["lit"]
    if not (_current and _current["lit"].port == port):
        refuse_taken(host, port)  # before a server is stopped and models are loaded
    stop()
    lit = Lit(build(run, kinds, texts, number), host, port, allow)
    _current.update({"lit": lit, "from": (options, prints, rows)})
    warm_up(lit)
    return lit


def stop() -> None:
    """Stop the server that ``start`` left running, if there is one."""
    if _current:
        _current["lit"].stop()
        _current.clear()


def kinds_of(run: Run, weights: str) -> tuple[str, ...]:
    """The kinds of weights named, or InputError for one that is unknown or that a fold lacks."""
    kinds = tuple(kind.strip() for kind in weights.split(",") if kind.strip())
    for kind in kinds or ("",):
        if kind not in run.kinds:
            raise InputError(f"weights={kind!r} are not there; {nearest(kind, run.kinds)}")
    return kinds


def target_of(run: Run, target: str) -> int:
    """The number of a target by its name; empty: the first."""
    names = run.config.target_columns
    if target and target not in names:
        raise InputError(f"target={target!r} is none of the run's; {nearest(str(target), names)}")
    if clash := {*names, run.config.text_column, run.config.id_column} & set(RESERVED):
        raise InputError(f"LIT has fields called {', '.join(RESERVED)} of its own; rename the column {min(clash)!r}.")
    return names.index(target) if target else 0


def _whole(name: str, value, most: int) -> int:
    if not str(value).isdigit() or int(value) > most:
        raise InputError(f"{name}={value!r} cannot be used; it must be a whole number from 0 to {most}.")
    return int(value)


def fingerprint(folder: Path, kind: str) -> str:
    """A hash of a fold's weights, by which ``start`` knows whether what is kept still holds."""
    with checkpoint.weights_file(folder, kind).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def build(run: Run, kinds: tuple[str, ...], texts: int, target: int):
    """The LIT application of a run; it says how much memory it is going to need."""
    config = run.config
    middle = float(run.table[config.target_columns[target]].median())
    held_out, models = {}, {}
    for fold, folder in run.folders.items():
        table = run.table[run.table["fold"] == fold]
        if 0 < texts < len(table):
            table = table.sample(texts, random_state=config.seed).sort_index()
        name = f"fold {fold} held out"
        held_out[name] = Excerpts(table, config, middle, target, f"{len(table)} texts that fold {fold} did not see.")
        for kind in kinds:
            explainer = Explainer(folder, kind, config, target)
            about = f"The {WEIGHTS[kind]} weights of fold {fold}, {fingerprint(folder, kind)}."
            models[f"fold {fold} {WEIGHTS[kind]}"] = Regressor(explainer, middle, about)
    print(f"LIT: {len(models)} models, {sum(map(len, held_out.values()))} texts, {memory(models, held_out)}.")
    options = dict(server_config.get_flags()) | {
        "server_type": "external", "demo_mode": True, "data_dir": "",
        "page_title": f"LIT: {config.run_name}", "default_layout": "default", "layouts": {"default": LAYOUT},
        "model_loaders": {}, "dataset_loaders": {},
    }  # fmt: skip
    able = interpreters(models, min(map(len, held_out.values())))
    return dev_server.Server(
        models, held_out, interpreters=able, generators=generators(middle),
        metrics={"regression": RegressionMetrics()}, **options,
    ).serve()  # fmt: skip


def warm_up(lit: Lit) -> None:
    """Make every prediction, and a first map of the embeddings, before anybody waits for them."""
    models = lit.ask("get_info")["models"]
    pairs = [(model, texts) for model, about in models.items() for texts in about["datasets"] if texts[0] != "_"]
    for model, texts in tqdm(pairs, desc="LIT reads", unit="fold", disable=not runtime.progress_wanted(), leave=False):
        rows = lit.ask("get_dataset", dataset_name=texts)
        lit.ask("get_preds", {"inputs": rows}, model=model, dataset_name=texts, requested_types="RegressionScore")
        if (model, texts) == pairs[0] and "umap" in models[model]["interpreters"]:  # it is compiled at its first use
            lit.project("umap", model, texts)


def memory(models: dict[str, Regressor], held_out: dict[str, Excerpts]) -> str:
    """What weights and kept predictions take: embedding and gradient of each token of every text, by every model."""
    taken = 0
    for model in models.values():
        inside = model.explainer.model
        taken += sum(weight.numel() * weight.element_size() for weight in inside.parameters())
        lengths = [
            len(ids)
            for texts in held_out.values()
            for ids in model.explainer.tokenized([row[model.config.text_column] for row in texts.examples])["input_ids"]
        ]
        taken += sum(lengths) * inside.encoder.get_input_embeddings().embedding_dim * 2 * 4
    return f"about {taken / 2**30:.1f} GiB of memory beside Python's own"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.serve", description="Serve a run's folds in LIT.")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a field of Config")
    parser.add_argument("--weights", default="swa", help="last, best or swa, with commas between")
    parser.add_argument("--texts", type=int, default=60, help="held-out texts of each fold; 0: all")
    parser.add_argument("--port", type=int, default=5432, help="0: a free one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for other machines too")
    parser.add_argument("--allow", default="", help="further names under which it may be asked, with commas between")
    parser.add_argument("--target", default="", help="of several targets, the one to explain")
    given = parser.parse_args()
    try:
        run = open_run(Config.make(**dict(given.p)))
        lit = start(run, given.weights, given.texts, given.port, given.host, given.allow, given.target)
        print(f"LIT is at {lit.url} (Ctrl-C stops it)", flush=True)
        if sys.stdout.isatty():
            webbrowser.open(lit.url)
        while lit.running:
            time.sleep(0.2)
    except InputError as error:
        sys.exit(f"InputError: {error}")
    except KeyboardInterrupt:
        print("\nStopping.")
    stop()


if __name__ == "__main__":
    main()
