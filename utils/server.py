"""A LIT server in a thread of this process: guarded, asked, shown in a notebook, stopped."""

import ipaddress
import json
import re
import socket
import threading
import time

import numpy as np
import requests
from IPython.display import HTML
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from utils import runtime
from utils.config import InputError

#: What the Hosts and Origins end in with which Colab's and Kaggle's own proxies reach a kernel. Taken from what others
#: have seen of these proxies; not tried here.
PROXIES = {"colab": ("-colab.googleusercontent.com", ".prod.colab.dev", "colab.research.google.com"),
           "kaggle": (".kaggle.net", ".kaggle.com", ".kaggleusercontent.com")}  # fmt: skip


class Lit:
    """A LIT server that runs in a thread of this process until ``stop``."""

    def __init__(self, app, host: str, port: int, allow: str = ""):
        self._guard = Guard(app, allow)
        try:
            self._server = make_server(host, port, self._guard, threaded=True, request_handler=_Quiet)
        except (OSError, SystemExit):  # werkzeug exits where the port is taken
            raise InputError(_TAKEN.format(port=port, host=host)) from None
        self.host, self.port = host, self._server.port
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet cannot reach this
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop serving, and free the port and what the models hold."""
        if self.running:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._guard.app = None

    def ask(self, question: str, body: dict | None = None, **parameters):
        """What the page would ask: ``ask("get_preds", {"inputs": [...]}, model=..., dataset_name=...)``.

        Raises RuntimeError with LIT's own words where it answers with an error.
        """
        answer = self._session.post(self.url + question, json=body or {}, params=parameters, timeout=(5, None))
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
        script = _FRAME.replace("%NAME%", json.dumps(name)).replace("%PORT%", str(self.port))
        frame = f'<iframe id="{name}" width="100%" height="{height}" frameborder="0"></iframe>'
        help = (
            f"LIT listens on port {self.port} of the machine that runs this notebook. If the frame stays empty, that "
            "port cannot be reached from here: install jupyter-server-proxy where Jupyter runs, or use make lit."
        )
        return HTML(f"{frame}<p><small>{help}</small></p>{script}")


_TAKEN = "port {port} of {host} cannot be had; it may be in use: choose another port, or 0 for any that is free."
_FRAME = """<script>(() => {
  const port = %PORT%, settings = document.getElementById("jupyter-config-data");
  const base = settings ? JSON.parse(settings.textContent).baseUrl : document.body.dataset.baseUrl || "/";
  const kaggle = /^https:\\/\\/[^/]+\\/k\\/[^/]+\\/[^/]+\\/proxy\\//.exec(location.href);
  const web = location.protocol.startsWith("http"), here = ["localhost", "127.0.0.1"].includes(location.hostname);
  document.getElementById(%NAME%).src = kaggle ? `${kaggle[0]}proxy/${port}/`
    : !web || here ? `http://${here ? location.hostname : "127.0.0.1"}:${port}/`
    : new URL(`${base}proxy/${port}/`, location.href).href;
})()</script>"""


class _Quiet(WSGIRequestHandler):
    """No line in the notebook for each request."""

    def log_request(self, *_):
        pass


class Guard:
    """Refuses what a page of another site could send: a foreign Host (DNS rebinding) or a foreign Origin.

    Hosts may be numeric addresses, this machine's names, the platform's proxies and ``allow``; an Origin must be the
    Host that is asked, or one of the last two.

    Args:
        allow: names with commas between; one that begins with a dot stands for every name that ends so.
    """

    def __init__(self, app, allow: str = ""):
        self.app = app
        given = [_name(word) for word in allow.split(",") if word.strip()]
        if bad := [word for word in given if not word.strip(".-")]:
            raise InputError(f"allow={bad[0]!r} would let in every page; name a host.")
        self._proxies = (*PROXIES.get(runtime.platform_name(), ()), *given)
        self._own = tuple(map(str.lower, ("localhost", socket.gethostname(), socket.getfqdn())))

    def __call__(self, environ, start_response):
        request = Request(environ)
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self.knows(host):
            refused = f"{host!r} is not one of LIT's names; start it with allow={_name(host)!r} if it should be."
        elif origin is not None and not self.trusts(origin, host):
            refused = f"LIT answers its own page alone, not {origin!r}."
        else:
            return self.app(environ, start_response)
        return Response(refused, status=403)(environ, start_response)

    def knows(self, host: str) -> bool:
        name = _name(host)
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return _among(name, self._own + self._proxies)

    def trusts(self, origin: str, host: str) -> bool:
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and (rest.lower() == host.lower() or _among(_name(rest), self._proxies))


def _name(host: str) -> str:
    """A Host without its port, in lower case."""
    return re.sub(r":\d+$", "", host.strip().lower()).strip("[]")


def _among(name: str, known: tuple[str, ...]) -> bool:
    return any(name == one or (one[0] in ".-" and name.endswith(one)) for one in known)


def refuse_taken(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port)[0][0]
    except OSError:
        raise InputError(f"host={host!r} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all.") from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise InputError(_TAKEN.format(port=port, host=host)) from None
