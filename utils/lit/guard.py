"""Which requests LIT's server answers, and what a browser may do with the answers."""

import io
import ipaddress
import re
import socket

from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from utils.config import InputError
from utils.lit import page
from utils.machine import runtime

#: How the Hosts and Origins end with which Colab's and Kaggle's own proxies reach a kernel, as others have
#: observed them; not tried here.
PROXIES = {
    "colab": ("-colab.googleusercontent.com", ".prod.colab.dev", "colab.research.google.com"),
    "kaggle": (".kaggle.net", ".kaggle.com", ".kaggleusercontent.com"),
}
#: What LIT's page may load: its own scripts and fonts, and nothing that a text or a link brings along. Its
#: bundle makes functions of strings. VS Code shows notebooks under schemes of its own.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; connect-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self' vscode-webview: vscode-file:"
)


class _Request(Request):
    max_content_length = 64 * 2**20  # bytes: the rows of some 20,000 texts


class Guard:
    """Answers LIT's own page, and nothing that other sites' pages send, except that they may open the page.

    A Host may be a numeric address, one of this machine's names, one of the platform's proxies, or in
    ``allow``; any other may be another site's name for this machine (DNS rebinding). An Origin must be the
    Host of the request, or one of the last two.

    Args:
        allow: host names, separated by commas; one that begins with a dot stands for every name that ends so.

    Raises InputError if ``allow`` would let in every page.
    """

    def __init__(self, app, allow: str = ""):
        self.app = app
        allowed = [_name(word) for word in allow.split(",") if word.strip()]
        if bad := [name for name in allowed if not re.fullmatch(r"[.-]?\w[\w.:-]*", name)]:
            problem = "is not the name of a host" if bad[0].strip(".-") else "would let in every page"
            raise InputError(f"allow={bad[0]!r} {problem}; name one, such as hub.example.org.")
        self._proxies = (*PROXIES.get(runtime.platform_name(), ()), *allowed)
        self._machine = tuple(map(str.lower, ("localhost", socket.gethostname(), socket.getfqdn())))
        # A policy's wildcard stands for whole parts of a name.
        sites = [re.sub(r"^(-[^.]*)?\.", "*.", name) for name in self._proxies]
        framing = " ".join(sorted({f"{name}:*" for name in ("127.0.0.1", *self._machine, *sites)}))
        self.headers = {  # of every answer
            "Content-Security-Policy": f"{POLICY} {framing}",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }

    def __call__(self, environ, start_response):
        request = _Request(environ)
        try:
            response = self._answer(request)
        except RequestEntityTooLarge:
            response = Response("a request may hold 64 MiB; open fewer texts in LIT.", status=413)
        except HTTPException as error:  # the body ends early
            response = Response(error.description, status=error.code)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return Response(refusal, status=403)
        body = request.stream.read() + request.stream.read(1)  # raises where a body without a length goes on
        request.environ["wsgi.input"] = io.BytesIO(body)
        if file := page.own_file(request.path):
            return file
        response = Response.from_app(self.app, request.environ)
        if response.status_code >= 400:  # LIT's errors repeat parameters, as HTML
            response.content_type = "text/plain; charset=utf-8"
        elif request.path == "/main.js":
            response.data = page.patched(response.data)
        elif response.mimetype == "text/html":
            response.data = page.with_own_fonts(response.data)
        return response

    def _refusal(self, request: Request) -> str:
        """Why a request is not answered; empty if it is."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        own = request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")  # old browsers: none
        opened = request.headers.get("Sec-Fetch-Mode") == "navigate"  # in a tab or a frame
        if not self.knows(host):
            return (
                f"{host!r} is not one of LIT's names; if it should be, start LIT with allow={_name(host)!r}."
            )
        if origin is not None and not self.trusts(origin, host):
            return f"LIT only answers its own page, not {origin!r}."
        if not own and not (opened and request.method == "GET" and request.path == "/"):
            return "LIT only answers its own page, not another site's; open LIT's address itself."
        return ""

    def knows(self, host: str) -> bool:
        """Whether a Host is an address, this machine, or a proxy that may stand before it."""
        name = _name(host)
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return _matches(name, self._machine + self._proxies)

    def trusts(self, origin: str, host: str) -> bool:
        """Whether an Origin is that of the Host, or a proxy's."""
        scheme, _, rest = origin.partition("://")
        same = rest.lower() == host.lower()
        return scheme in ("http", "https") and (same or _matches(_name(rest), self._proxies))


def _name(host: str) -> str:
    """A Host without its port, in lower case."""
    return re.sub(r":\d+$", "", host.strip().lower()).strip("[]")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or (pattern[0] in ".-" and name.endswith(pattern)) for pattern in patterns)
