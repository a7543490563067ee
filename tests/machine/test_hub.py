"""A hub that fails: tried again by its client, and told in a sentence once that is in vain."""

import http.server
import os
import subprocess
import sys
import threading

import pytest

from utils.machine import runtime
from utils.machine.encoders import make_tiny_encoder

pytestmark = pytest.mark.full

CODE = """
from utils.config import InputError
from utils.machine.encoders import read_encoder_config
try:
    print(read_encoder_config("someone/model").model_type)
except InputError as error:
    print(f"InputError: {error}")
"""


@pytest.fixture
def hub(tmp_path):
    """A function that serves the tiny encoder's config after so many failures, and returns its address."""
    content = (make_tiny_encoder(tmp_path / "tiny-encoder") / "config.json").read_bytes()
    servers = []

    def start(failures):
        left = [failures]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                if left[0]:
                    left[0] -= 1
                    self.send_error(503)
                    return False
                found = self.path.endswith("/config.json")
                self.send_response(200 if found else 404)
                for name, value in {"ETag": '"1"', "X-Repo-Commit": "0" * 40}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) if found else 0))
                self.end_headers()
                return found

            def do_GET(self):
                if self.do_HEAD():
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def load(address, tmp_path):
    """What is printed where the hub is at ``address``."""
    settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        cwd=runtime.ROOT,
        env=os.environ | settings,
        check=True,
    )
    return done.stdout.strip()


def test_a_hub_that_fails_at_first_is_asked_again(hub, tmp_path):
    assert load(hub(failures=3), tmp_path) == "bert"


def test_a_hub_that_always_fails_is_told_in_a_sentence(hub, tmp_path):
    answer = load(hub(failures=10**6), tmp_path)
    assert answer.startswith("InputError: encoder='someone/model': its config cannot be loaded (")
    assert "a local model folder" in answer
    assert "\n" not in answer
