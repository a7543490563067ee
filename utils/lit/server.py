"""A LIT server in a thread of this process: guarded, queried, shown in a notebook, stopped."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlencode

import numpy as np
import requests
from IPython.display import HTML
from werkzeug.serving import WSGIRequestHandler, make_server

from utils.config import InputError
from utils.lit.guard import Guard
from utils.machine import runtime


class Lit:
    """A LIT server that runs in a thread of this process until ``stop``.

    Args:
        app: LIT's WSGI app.
        host, port: where it listens; port 0 takes a free one.
        allow: further host names that requests may use, as in ``Guard``.
        models: that the page opens with; empty: the first.

    Raises InputError if the port is not available.
    """

    def __init__(self, app, host: str, port: int, allow: str = "", models: Sequence[str] = ()):
        self._guard = Guard(app, allow)
        try:
            self._server = make_server(host, port, self._guard, threaded=True, request_handler=_Handler)
        except (OSError, SystemExit):  # werkzeug exits if the port is taken
            raise InputError(_UNAVAILABLE.format(port=port, host=host)) from None
        self.host, self.port = host, self._server.port
        self._query = f"?{urlencode({'models': ','.join(models)})}" if models else ""
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet cannot reach this machine
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def page(self) -> str:
        """The address of the page, with the models that it opens with."""
        return self.url + self._query

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop serving; free the port and the models' memory."""
        if self.running:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._guard.app = None

    def ask(self, question: str, body: dict | None = None, **parameters):
        """Query as the page does: ``ask("get_preds", {"inputs": rows}, model=..., dataset_name=...)``.

        Raises RuntimeError with LIT's own message if it answers with an error.
        """
        url = self.url + question
        answer = self._session.post(url, json=body or {}, params=parameters, timeout=(5, None))
        if not answer.ok:
            raise RuntimeError(f"LIT could not answer {question}: {answer.text[:400]}")
        return answer.json()

    def interpret(self, component: str, model: str, dataset: str, inputs: list | None = None, **settings):
        """An interpreter's answer for rows of a dataset.

        Args:
            inputs: the rows, or their ids; None: all.
            settings: of the component, in place of its defaults.
        """
        inputs = self.ask("get_dataset", dataset_name=dataset) if inputs is None else inputs
        body = {"inputs": inputs, "config": self._defaults("interpreters", component) | settings}
        return self.ask("get_interpretations", body, model=model, dataset_name=dataset, interpreter=component)

    def salience(
        self, method: str, model: str, dataset: str, inputs: list, **settings
    ) -> list[tuple[list[str], np.ndarray]]:
        """The tokens (LIME: the words) of each input, and their salience, (tokens,)."""
        answers = self.interpret(method, model, dataset, inputs, **settings)
        fields = [next(iter(answer.values())) for answer in answers]
        return [(field["tokens"], np.array(field["salience"])) for field in fields]

    def generate(
        self, component: str, model: str, dataset: str, inputs: list, **settings
    ) -> list[list[dict]]:
        """The new rows that a generator makes of each input."""
        body = {"inputs": inputs, "config": self._defaults("generators", component) | settings}
        return self.ask("get_generated", body, model=model, dataset_name=dataset, generator=component)

    def project(self, method: str, model: str, dataset: str, embedding: str = "pooled") -> np.ndarray:
        """A dataset's embeddings in three dimensions, (rows, 3), by "pca" or "umap"."""
        settings: dict[str, Any] = {"dataset_name": dataset, "model_name": model, "field_name": embedding}
        settings |= {"use_input": False, "proj_kw": {"n_components": 3}}
        return np.array([row["z"] for row in self.interpret(method, model, dataset, **settings)])

    def _defaults(self, group: str, component: str) -> dict:
        spec = self.ask("get_info")[group][component]["configSpec"]
        return {name: field.get("default") for name, field in spec.items()}

    def show(self, height: int = 900) -> HTML:
        """The page inside a notebook: Jupyter, JupyterLab, VS Code, Colab or Kaggle.

        The address is assembled in the reader's browser, so that none is saved with the notebook: on Kaggle
        it holds a token.

        Args:
            height: in pixels.
        """
        if not runtime.progress_wanted():
            return HTML(f"<i>{_NO_BROWSER}</i>")
        if runtime.platform_name() == "colab":
            from google.colab import output  # exists only there

            output.serve_kernel_port_as_iframe(self.port, height=str(height))
            return HTML("")
        name = f"lit-{self.port}-{time.monotonic_ns()}"
        script = _FRAME.replace("%NAME%", json.dumps(name)).replace("%PORT%", str(self.port))
        script = script.replace("%QUERY%", json.dumps(self._query))
        frame = f'<iframe id="{name}" width="100%" height="{height}" frameborder="0"></iframe>'
        link = f'<a id="{name}-tab" target="_blank" rel="noopener">Open LIT in a tab of its own</a>'
        return HTML(f"{frame}<p><small>{link}. {_HELP.format(port=self.port)}</small></p>{script}")


def check_port(host: str, port: int) -> None:
    """Raise InputError unless a server could listen at ``host`` and ``port``."""
    try:
        family = socket.getaddrinfo(host, port)[0][0]
    except OSError:
        raise InputError(
            f"host={host!r} is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for all."
        ) from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise InputError(_UNAVAILABLE.format(port=port, host=host)) from None


class _Handler(WSGIRequestHandler):
    """Reads a request within a minute, adds the guard's headers to its answer, and prints no line of it."""

    seconds_to_read = 60.0
    timeout = 600  # seconds in which an answer must be taken
    error_content_type, error_message_format = "text/plain", "%(code)d: %(message)s\n"

    def handle(self):
        reading = threading.Timer(self.seconds_to_read, self._stop_reading)
        reading.daemon = True
        reading.start()
        super().handle()
        reading.cancel()

    def _stop_reading(self):
        """What has not come by now, however slowly it is sent, comes too late."""
        with contextlib.suppress(OSError):  # closed
            self.connection.shutdown(socket.SHUT_RD)

    def end_headers(self):
        for header in cast(Guard, self.server.app).headers.items():
            self.send_header(*header)
        super().end_headers()

    def log(self, *_):
        pass


_UNAVAILABLE = "port {port} of {host} is not available; choose another port, or 0 for any that is free."
_NO_BROWSER = "No browser is attached, so LIT isn't embedded here; the cells below query the same server."
_HELP = (
    "LIT listens on port {port} of the machine that runs this notebook. If the frame stays empty, that port "
    "cannot be reached from here: install jupyter-server-proxy where Jupyter runs, or use make lit."
)
_FRAME = """<script>(() => {
  const port = %PORT%, settings = document.getElementById("jupyter-config-data");
  const base = settings ? JSON.parse(settings.textContent).baseUrl : document.body.dataset.baseUrl || "/";
  const kaggle = /^https:\\/\\/[^/]+\\/k\\/[^/]+\\/[^/]+\\/proxy\\//.exec(location.href);
  const web = location.protocol.startsWith("http");
  const here = ["localhost", "127.0.0.1"].includes(location.hostname);
  const address = kaggle ? `${kaggle[0]}proxy/${port}/`
    : !web || here ? `http://${here ? location.hostname : "127.0.0.1"}:${port}/`
    : new URL(`${base}proxy/${port}/`, location.href).href;
  document.getElementById(%NAME%).src = document.getElementById(%NAME% + "-tab").href = address + %QUERY%;
})()</script>"""
