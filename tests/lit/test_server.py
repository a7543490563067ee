"""LIT's server: which requests it answers, and how a notebook shows it."""

import re

import pytest
import requests

from tests.lit.conftest import HELD_OUT, MODEL
from utils.config import InputError
from utils.lit.guard import Guard
from utils.machine import runtime


def status(lit, headers):
    return requests.get(f"{lit.url}get_info", headers=headers, timeout=30).status_code


def test_requests_of_other_sites_pages_are_refused(lit):
    assert status(lit, {}) == status(lit, {"Host": f"localhost:{lit.port}"}) == 200
    assert status(lit, {"Origin": f"http://127.0.0.1:{lit.port}"}) == 200
    assert status(lit, {"Origin": f"http://localhost:{lit.port}"}) == 403
    assert status(lit, {"Origin": "https://evil.example"}) == 403
    assert status(lit, {"Origin": "null"}) == 403
    assert status(lit, {"Host": "evil.example"}) == status(lit, {"Host": f"evil.example:{lit.port}"}) == 403
    assert status(lit, {"Host": "127.0.0.1.evil.example"}) == 403
    guard = Guard(None, "Hub.example:8888, .lab.example")
    names = ("me.lab.example:8888", "hub.example", "HUB.example:1", "LOCALHOST:4")
    for host in (*names, "[::1]:5432", "10.0.0.7"):
        assert guard.knows(host), host
    for host in ("evilab.example", "hub.example.evil", "", "."):
        assert not guard.knows(host), host
    assert guard.trusts("https://hub.example:8888", "localhost:5432"), "a proxy that rewrites the Host"
    assert not guard.trusts("http://localhost:9999", "localhost:5432"), "another server on this machine"
    with pytest.raises(InputError, match="would let in every page"):
        Guard(None, ".,hub.example")


def test_colabs_proxies_are_known(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    guard = Guard(None)
    assert guard.knows("abc123-5432-colab.googleusercontent.com")
    assert not guard.knows("colab.googleusercontent.com.evil.example")


def test_nothing_can_be_written_or_loaded_from_the_page(lit, rows, tmp_path):
    lit.ask("save_datapoints", {"inputs": rows[:1]}, dataset_name=HELD_OUT, path=str(tmp_path / "stolen"))
    assert not list(tmp_path.iterdir())
    for question, name in (
        ("create_model", {"model_name": MODEL}),
        ("create_dataset", {"dataset_name": HELD_OUT}),
    ):
        with pytest.raises(RuntimeError, match="No loader information"):
            lit.ask(question, {"config": {"new_name": "x"}}, **name)
    assert "Path not safe" in requests.get(lit.url + "static/..%2f..%2f..%2f..%2fapp.py", timeout=30).text


def test_fonts_and_icons_come_from_this_server(lit):
    page = requests.get(lit.url, timeout=30)
    assert "googleapis" not in page.text + page.headers["Content-Security-Policy"]
    assert "gstatic" not in page.headers["Content-Security-Policy"]
    (sheet,) = re.findall(r'href="(fonts/[^"]+)"', page.text)
    styles = requests.get(lit.url + sheet, timeout=30)
    assert styles.headers["Content-Type"].startswith("text/css")
    files = set(re.findall(r'url\("([^"]+)"\)', styles.text))
    assert len(files) == 5
    for file in files:
        font = requests.get(f"{lit.url}fonts/{file}", timeout=30)
        assert font.headers["Content-Type"] == "font/woff2"
        assert font.content[:4] == b"wOF2"
    for path in ("fonts/README.md", "fonts/..%2fguard.py"):
        assert b"wOF2" not in requests.get(lit.url + path, timeout=30).content
        assert "Guard" not in requests.get(lit.url + path, timeout=30).text


def test_the_page_in_a_notebook_holds_no_address_that_could_leak(lit, monkeypatch):
    monkeypatch.setattr(runtime, "progress_wanted", lambda: False)
    assert "No browser is attached" in lit.show().data
    monkeypatch.setattr(runtime, "progress_wanted", lambda: True)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    shown = lit.show(height=700).data
    assert f"const port = {lit.port}" in shown
    assert "https://" not in shown
    assert 'height="700"' in shown
    assert re.search(r'<a id="lit-\d+-\d+-tab" target="_blank"', shown), "a link to a tab of its own"
