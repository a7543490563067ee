"""What a page elsewhere could send to LIT's server, and what a browser may do with the answers."""

import json
import re
import socket
import threading
import time

import pytest
import requests
from werkzeug.wrappers import Request, Response

from utils.config import InputError
from utils.lit import guard
from utils.lit.guard import Guard
from utils.lit.server import Lit, _Handler

SCRIPT = "<script>alert(1)</script>"


@Request.application
def app(request):
    """Stands in for LIT: repeats what it gets, as LIT does in its errors."""
    if request.path == "/slow":
        time.sleep(1.5)
    if request.path == "/error":
        return Response(request.query_string, status=500, content_type="text/html")
    return Response(json.dumps(len(request.data)), content_type="application/json")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(_Handler, "seconds_to_read", 1.0)
    monkeypatch.setattr(guard._Request, "max_content_length", 5000)
    server = Lit(app, "127.0.0.1", 0, allow="hub.example, .lab.example")
    yield server
    server.stop()


def fetched(site, mode="no-cors", dest="empty"):
    return {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}


TAB, FRAME = ("navigate", "document"), ("navigate", "iframe")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "get_dataset", {}, 200),  # a browser that says nothing, or no browser
        ("GET", "get_dataset", fetched("same-origin"), 200),
        ("GET", "get_dataset", fetched("none", *TAB), 200),  # an address that was typed
        ("GET", "", fetched("cross-site", *TAB), 200),
        ("GET", "", fetched("cross-site", *FRAME), 200),
        ("GET", "", fetched("same-site", *FRAME), 200),  # a notebook on another port
        ("GET", "?models=a&selection=b", fetched("cross-site", *TAB), 200),  # a copied link
        ("GET", "get_dataset", fetched("cross-site", *TAB), 403),
        ("GET", "get_dataset", fetched("cross-site", *FRAME), 403),
        ("GET", "get_dataset", fetched("same-site", *FRAME), 403),
        ("GET", "static/potato.svg", fetched("cross-site", *TAB), 403),
        ("GET", "", fetched("cross-site", "no-cors", "image"), 403),
        ("GET", "main.js", fetched("cross-site", "no-cors", "script"), 403),
        ("POST", "", fetched("cross-site", *TAB), 403),
        ("POST", "get_preds", fetched("cross-site", "cors"), 403),
        ("POST", "get_preds", fetched("same-site"), 403),
        ("POST", "get_preds", fetched("same-origin", "cors") | {"Origin": "https://evil.example"}, 403),
        ("GET", "", fetched("cross-site", *TAB) | {"Host": "evil.example"}, 403),  # DNS rebinding
        ("GET", "", {"Host": "127.0.0.1, evil.example"}, 403),
    ],
)
def test_other_sites_pages_may_open_the_page_and_nothing_else(server, method, path, headers, status):
    assert requests.request(method, server.url + path, headers=headers, timeout=30).status_code == status


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\r\nHost: localhost",
        f"GET /error?{SCRIPT} HTTP/1.1\r\nHost: localhost",
        f"GET / HTTP/1.1\r\nHost: {SCRIPT}",
        f"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: {SCRIPT}",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6000",
        f"GET / HTTP/1.1 {SCRIPT}\r\nHost: localhost",
        f"GET /{'x' * 70000} HTTP/1.1\r\nHost: localhost",
        f"{SCRIPT}GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {SCRIPT}",
    ],
)
def test_every_answer_has_a_policy_and_errors_are_plain_text(server, head):
    answer = send(server, head + "\r\n\r\n").decode()
    headers, _, body = answer.partition("\r\n\r\n")
    if not headers.startswith("HTTP"):  # http.server takes the request for one of 1991, without headers
        assert SCRIPT not in answer
        return
    assert "\r\nContent-Security-Policy: default-src 'none'; script-src 'self' 'unsafe-eval';" in headers
    assert "\r\nX-Content-Type-Options: nosniff" in headers
    (kind,) = re.findall(r"^Content-Type: ([\w/]+)", headers, flags=re.MULTILINE)
    assert kind == ("application/json" if " 200 " in headers else "text/plain")
    assert body


def test_lits_own_errors_repeat_parameters_as_text(lit):
    answer = requests.get(lit.url + "get_dataset", params={"dataset_name": SCRIPT}, timeout=30)
    assert answer.status_code == 500
    assert SCRIPT in answer.text, "what makes it worth a test"
    assert answer.headers["Content-Type"].startswith("text/plain")
    for path in ("", "main.js", "get_info", "static/favicon.png", "nowhere"):
        headers = requests.get(lit.url + path, timeout=30).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "script-src 'self'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("variable", "sources"),
    [
        (None, "'self' vscode-webview: vscode-file: *.lab.example:* 127.0.0.1:* hub.example:* localhost:*"),
        ("COLAB_RELEASE_TAG", "*.googleusercontent.com:* *.prod.colab.dev:* colab.research.google.com:*"),
        ("KAGGLE_KERNEL_RUN_TYPE", "*.kaggle.net:* *.kaggle.com:* *.kaggleusercontent.com:*"),
    ],
)
def test_a_notebooks_host_may_frame_the_page(monkeypatch, variable, sources):
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "x")
    policy = Guard(None, "Hub.example:8888, .lab.example").headers["Content-Security-Policy"]
    framing = policy.partition("frame-ancestors ")[2].split()
    assert set(sources.split()) <= set(framing)
    assert "*" not in framing
    with pytest.raises(InputError, match=r"allow='x; script-src' is not the name of a host; name one"):
        Guard(None, "x; script-src, y")


def send(server, *parts, pause=0.0):
    """The server's answer to bytes that are sent with pauses, until it closes the connection."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part.encode() if isinstance(part, str) else part)
                time.sleep(pause)
            while received := connection.recv(10000):
                answer += received
        except (BrokenPipeError, ConnectionResetError):  # closed while it was sent to
            pass
        return answer


@pytest.mark.parametrize(
    "request_of",
    [
        lambda size: {"data": b"x" * size},
        lambda size: {"data": (b"x" * 1000 for _ in range(size // 1000))},  # chunks, without a length
    ],
)
def test_bodies_are_bounded(server, request_of):
    answer = requests.post(server.url, **request_of(4000), timeout=30)
    assert answer.json() == 4000
    answer = requests.post(server.url, **request_of(9000), timeout=30)
    assert answer.status_code == 413
    assert answer.text == "a request may hold 64 MiB; open fewer texts in LIT."


POST = "POST / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [""],
        ["GET / HTTP/1.1\r\n", *["X: y\r\n"] * 100],
        [POST + "Content-Length: 1000\r\n\r\n", *["x"] * 100],
        [POST + "Transfer-Encoding: chunked\r\n\r\n", *["1\r\nx\r\n"] * 100],
        ["POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n\r\n", *["x"] * 100],
    ],
    ids=["idle", "headers", "body", "chunks", "refused"],
)
def test_a_request_that_does_not_come_in_time_is_given_up(server, parts):
    before = threading.active_count()
    start = time.monotonic()
    send(server, *parts, pause=0.05)
    assert time.monotonic() - start < 3, "it would have taken five seconds"
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_an_answer_may_take_longer_than_a_request(server):
    assert requests.post(server.url + "slow", json={}, timeout=30).json() == 2
