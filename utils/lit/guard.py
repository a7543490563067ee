"""Which requests LIT's server answers: its own page's, not those of other sites' pages."""

import ipaddress
import re
import socket

from werkzeug.wrappers import Request, Response

from utils.config import InputError
from utils.machine import runtime

#: How the Hosts and Origins end with which Colab's and Kaggle's own proxies reach a kernel, as others have
#: observed them; not tried here.
PROXIES = {
    "colab": ("-colab.googleusercontent.com", ".prod.colab.dev", "colab.research.google.com"),
    "kaggle": (".kaggle.net", ".kaggle.com", ".kaggleusercontent.com"),
}


class Guard:
    """Refuses what other sites' pages could send: a foreign Host (DNS rebinding), or Origin.

    A Host may be a numeric address, one of this machine's names, one of the platform's proxies, or in
    ``allow``. An Origin must be the Host of the request, or one of the last two.

    Args:
        allow: host names, separated by commas; one that begins with a dot stands for every name that ends so.

    Raises InputError if ``allow`` would let in every page.
    """

    def __init__(self, app, allow: str = ""):
        self.app = app
        allowed = [_name(word) for word in allow.split(",") if word.strip()]
        if bad := [name for name in allowed if not name.strip(".-")]:
            raise InputError(f"allow={bad[0]!r} would let in every page; name a host.")
        self._proxies = (*PROXIES.get(runtime.platform_name(), ()), *allowed)
        self._machine = tuple(map(str.lower, ("localhost", socket.gethostname(), socket.getfqdn())))

    def __call__(self, environ, start_response):
        request = Request(environ)
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not self.knows(host):
            refusal = (
                f"{host!r} is not one of LIT's names; if it should be, start LIT with allow={_name(host)!r}."
            )
        elif origin is not None and not self.trusts(origin, host):
            refusal = f"LIT only answers its own page, not {origin!r}."
        else:
            return self.app(environ, start_response)
        return Response(refusal, status=403)(environ, start_response)

    def knows(self, host: str) -> bool:
        name = _name(host)
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return _matches(name, self._machine + self._proxies)

    def trusts(self, origin: str, host: str) -> bool:
        scheme, _, rest = origin.partition("://")
        same = rest.lower() == host.lower()
        return scheme in ("http", "https") and (same or _matches(_name(rest), self._proxies))


def _name(host: str) -> str:
    """A Host without its port, in lower case."""
    return re.sub(r":\d+$", "", host.strip().lower()).strip("[]")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or (pattern[0] in ".-" and name.endswith(pattern)) for pattern in patterns)
