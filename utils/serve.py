"""LIT as a running server: started, guarded, asked, shown in a notebook or a browser, stopped.

``python -m utils.serve -p preset demo --port 5432`` serves the folds of a run until Ctrl-C; ``make lit`` calls it.
"""

import argparse
import hashlib
import ipaddress
import json
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

import numpy as np
import pandas as pd
import requests
from absl import logging
from IPython.display import HTML
from lit_nlp import dev_server, server_config
from lit_nlp.components.metrics import RegressionMetrics
from tqdm.auto import tqdm
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from utils import runtime
from utils.config import Config, InputError, nearest
from utils.explain import Explainer
from utils.folds import Run, open_run
from utils.interpret import LAYOUT, Excerpts, Regressor, generators, interpreters

#: Names under which Colab's and Kaggle's own proxies pass requests on to a kernel.
PROXIES = {"colab": (".colab.googleusercontent.com", ".colab.research.google.com", "colab.research.google.com"),
           "kaggle": (".kaggle.net", ".kaggle.com", ".kaggleusercontent.com")}  # fmt: skip


logging.set_verbosity(logging.ERROR)  # LIT warns of every text that its cache cannot hold

WEIGHTS = {"last": "last", "best": "best", "swa": "averaged"}


class Lit:
    """A LIT server that runs in a thread of this process until ``stop``."""

    def __init__(self, app, host: str, port: int, allow: tuple[str, ...] = ()):
        try:
            self._server = make_server(host, port, Guard(app, allow), threaded=True, request_handler=_Quiet)
        except (OSError, SystemExit):  # werkzeug exits where the port is taken
            raise InputError(f"port {port} of {host} cannot be had; it may be in use: choose another, or 0.") from None
        self.app, self.host, self.port = app, host, self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}/"

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop serving, and free the port and what the models hold."""
        if self.running:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self.app = None

    def ask(self, question: str, body: dict | None = None, **parameters):
        """What the page would ask: ``ask("get_preds", {"inputs": [...]}, model=..., dataset_name=...)``.

        Raises RuntimeError with LIT's own words where it answers with an error.
        """
        answer = requests.post(self.url + question, json=body or {}, params=parameters, timeout=600)
        if not answer.ok:
            raise RuntimeError(f"LIT could not answer {question}: {answer.text[:400]}")
        return answer.json()

    def interpret(self, component: str, model: str, texts: str, inputs: list | None = None, **settings):
        """An interpreter's answer about some of a dataset's rows (their ids, or rows; None: all), as the page asks it.

        Args:
            texts: the dataset's name.
            settings: of the component, beside its defaults.
        """
        inputs = self.ask("get_dataset", dataset_name=texts) if inputs is None else inputs
        body = {"inputs": inputs, "config": self._defaults("interpreters", component) | settings}
        return self.ask("get_interpretations", body, model=model, dataset_name=texts, interpreter=component)

    def salience(self, method: str, model: str, texts: str, inputs: list, **settings) -> list[tuple[list, np.ndarray]]:
        """For each input its tokens (LIME: its words) and their salience."""
        found = (next(iter(answer.values())) for answer in self.interpret(method, model, texts, inputs, **settings))
        return [(one["tokens"], np.array(one["salience"])) for one in found]

    def generate(self, component: str, model: str, texts: str, inputs: list, **settings) -> list[list[dict]]:
        """The new rows that a generator makes of each input."""
        body = {"inputs": inputs, "config": self._defaults("generators", component) | settings}
        return self.ask("get_generated", body, model=model, dataset_name=texts, generator=component)

    def project(self, method: str, model: str, texts: str, embedding: str = "pooled") -> np.ndarray:
        """A dataset's embeddings in three dimensions, (rows, 3), by "pca" or "umap"."""
        place = {"dataset_name": texts, "model_name": model, "field_name": embedding, "use_input": False}
        settings = place | {"proj_kw": {"n_components": 3}}
        return np.array([row["z"] for row in self.interpret(method, model, texts, **settings)])

    def _defaults(self, kind: str, component: str) -> dict:
        spec = self.ask("get_info")[kind][component]["configSpec"]
        return {name: field.get("default") for name, field in spec.items()}

    def show(self, height: int = 900) -> HTML:
        """The page inside a notebook: Jupyter, JupyterLab, VS Code, Colab or Kaggle.

        The address is put together in the reader's browser, so that none is saved with the notebook: on Kaggle it
        holds a token.
        """
        if not runtime.progress_wanted():
            return HTML("<i>Nobody watches, so LIT's page is not shown; what follows asks the same server.</i>")
        if runtime.platform_name() == "colab":
            from google.colab import output  # there alone

            output.serve_kernel_port_as_iframe(self.port, height=str(height))
            return HTML("")
        name = f"lit-{self.port}-{time.monotonic_ns()}"
        replaced = {"NAME": json.dumps(name), "PORT": str(self.port), "PROXIED": json.dumps(_has_proxy())}
        script = _FRAME
        for word, value in replaced.items():
            script = script.replace(f"%{word}%", value)
        return HTML(f'<iframe id="{name}" width="100%" height="{height}" frameborder="0"></iframe>{script}')


_FRAME = """<script>(() => {
  const port = %PORT%, settings = document.getElementById("jupyter-config-data");
  const kaggle = /^https:\\/\\/[^/]+\\/k\\/[^/]+\\/[^/]+\\/proxy\\//.exec(location.href) ||
    /^https:\\/\\/[^/]+\\/k\\/[^/]+\\/[^/]+\\/proxy\\//.exec(document.referrer);
  const base = settings ? JSON.parse(settings.textContent).baseUrl : document.body.dataset.baseUrl || "/";
  const local = ["localhost", "127.0.0.1"].includes(location.hostname) ? location.hostname : "127.0.0.1";
  document.getElementById(%NAME%).src = kaggle ? `${kaggle[0]}proxy/${port}/`
    : %PROXIED% ? new URL(`${base}proxy/${port}/`, location.href).href : `http://${local}:${port}/`;
})()</script>"""


def _has_proxy() -> bool:
    """Whether jupyter-server-proxy is there: it reaches a port of another machine through the notebook's address."""
    try:
        import jupyter_server_proxy  # noqa: F401 - asked for, not used
    except ImportError:
        return False
    return True


class _Quiet(WSGIRequestHandler):
    """No line in the notebook for each request."""

    def log_request(self, *_):
        pass


class Guard:
    """Refuses what a page of another site could send: a foreign Host (DNS rebinding) or a foreign Origin.

    Numeric addresses and this machine's names may be Hosts, and ``allow``, where a leading dot stands for any name
    that ends so. An Origin must be the Host that is asked.
    """

    def __init__(self, app, allow: tuple[str, ...] = ()):
        self.app = app
        self.allowed = ("localhost", socket.gethostname(), socket.getfqdn(),
                        *PROXIES.get(runtime.platform_name(), ()), *allow)  # fmt: skip

    def __call__(self, environ, start_response):
        request = Request(environ)
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self._known(host):
            refused = f"This address, {host!r}, is not one of LIT's; start it with allow={host!r} if it should be."
        elif origin not in (None, f"http://{host}", f"https://{host}"):
            refused = f"LIT answers its own page alone, not {origin!r}."
        else:
            return self.app(environ, start_response)
        return Response(refused, status=403)(environ, start_response)

    def _known(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host
        try:
            ipaddress.ip_address(name.strip("[]"))
            return True
        except ValueError:
            return any(name == known or (known.startswith(".") and name.endswith(known)) for known in self.allowed)


# --- the folds of a run ------------------------------------------------------------------------------------------

_current: dict = {}  # the server that runs in this process, and what it was started from


def start(
    run: Run,
    weights: str = "swa",
    texts: int = 60,
    port: int = 0,
    host: str = "127.0.0.1",
    allow: tuple[str, ...] = (),
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
        allow: names under which it may be asked, beside this machine's own, such as a notebook server's behind a proxy.
        target: the target to explain; empty: the first.
    """
    kinds = kinds_of(run, weights)
    if target and target not in run.config.target_columns:
        raise InputError(f"target={target!r} is none of the run's; {nearest(target, run.config.target_columns)}")
    options = (kinds, texts, port, host, tuple(allow), target)
    prints = [fingerprint(folder / kind) for folder in run.folders.values() for kind in kinds]
    rows = hashlib.sha256(pd.util.hash_pandas_object(run.table, index=False).to_numpy()).hexdigest()
    if _current.get("from") == (options, prints, rows) and _current["lit"].running:
        return _current["lit"]
    stop()
    app = build(run, kinds, texts, run.config.target_columns.index(target) if target else 0)
    lit = Lit(app, host, port, tuple(allow))
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


def fingerprint(folder: Path) -> str:
    """A hash of a model's weights: what it predicts is kept for these, whatever the model is called."""
    with (folder / "model.safetensors").open("rb") as file:
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
        held_out[name] = Excerpts(table, config, middle, f"{len(table)} texts that fold {fold} did not see.")
        for kind in kinds:
            explainer = Explainer(folder, kind, config, target)
            about = f"The {WEIGHTS[kind]} weights of fold {fold}, {fingerprint(folder / kind)}."
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
        taken += sum(lengths) * inside.config.encoder.hidden_size * 2 * 4
    return f"about {taken / 2**30:.1f} GiB of memory beside Python's own"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.serve", description="Serve a run's folds in LIT.")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a field of Config")
    parser.add_argument("--weights", default="swa", help="last, best or swa, with commas between")
    parser.add_argument("--texts", type=int, default=60, help="held-out texts of each fold; 0: all")
    parser.add_argument("--port", type=int, default=5432, help="0: a free one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for other machines too")
    parser.add_argument("--allow", default="", help="further names under which it may be asked, with commas between")
    given = parser.parse_args()
    try:
        allow = tuple(filter(None, given.allow.split(",")))
        run = open_run(Config.make(**dict(given.p)))
        lit = start(run, given.weights, given.texts, given.port, given.host, allow)
    except InputError as error:
        sys.exit(f"InputError: {error}")
    print(f"LIT is at {lit.url} (Ctrl-C stops it)", flush=True)
    if sys.stdout.isatty():
        webbrowser.open(lit.url)
    try:
        while lit.running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        print("\nStopping.")
    stop()


if __name__ == "__main__":
    main()
