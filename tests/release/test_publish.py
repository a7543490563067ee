"""The card of a folder, and its way to a stand-in of the hub."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from utils import predict
from utils.config import Config, InputError
from utils.data.sources import BUILT_IN, OPEN
from utils.machine import runtime
from utils.release.card import DATA, card
from utils.release.publish import publish, stage
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import add_folds, load_table


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    """The folder of a trained fold."""
    with pytest.MonkeyPatch.context() as patch:
        workspace = tmp_path_factory.mktemp("publish")
        patch.setattr(runtime, "workspace", lambda: workspace)
        config = Config.make("tiny", precision="fp32", output_dir=str(workspace))
        yield fit_fold(config, add_folds(load_table(config), config))


def test_every_open_source_has_the_licence_that_the_page_of_data_gives_it():
    assert set(DATA) == {*BUILT_IN, *OPEN}
    page = (runtime.ROOT / "data" / "README.md").read_text()
    assert "are dedicated to the public domain (CC0 1.0)" in page
    for source, (_, licence) in DATA.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{source}` |")), "CC0 1.0")
        assert licence in row, source


def test_the_card_tells_what_the_fold_knows(fold):
    text, result = card(fold / "averaged", "me/easy"), artifacts.read_result(fold)
    metadata = artifacts.read_metadata(fold)
    run = open_run(Config.make(**metadata["config"]))
    low, high = run.task.interval(run.targets, run.values("averaged"), run.predictions["group"].to_numpy())
    assert text.startswith(
        "---\nlibrary_name: transformers\npipeline_tag: text-classification\n---\n\n# easy\n"
    )
    for words in (
        f"| **this model** | {result['scores']['averaged']['rmse']:.3f} |",
        f"95 % interval is {low:.3f} to {high:.3f} (bootstrap over groups of rows)",
        "licence: CC0 1.0. 60 rows in 5 folds (group of `topic`). Fold 0,",
        f"on {metadata['device']} in fp32",
        "It reads 64 tokens of a text at once; what follows is cut off",
        'pipeline("text-classification", "me/easy", trust_remote_code=True',
        "Preset `tiny`: encoder tiny, pooling cls_layers",
    ):
        assert words in text
    for name, scores in result["baselines"].items():
        assert f"| {name} | {scores['rmse']:.3f} |" in text
    errors = run.errors("averaged")[:, 0]
    topics = run.predictions["id"].map(run.table.set_index("id")["topic"])
    worst = max(set(topics), key=lambda topic: errors[topics == topic].mean())
    assert f"by `topic`: {worst} ({errors[topics == worst].mean():.2g})" in text


def test_what_is_not_known_is_said(fold, tmp_path, random_weights):
    folder, _ = random_weights("ordinal")
    text = card(folder)
    assert "is not known: it was taken out of its fold" in text
    assert "answers `level` (1, 2, 3, 4, 5)" in text
    spans = card(random_weights("spans")[0])
    assert "pipeline_tag: question-answering" in spans
    assert 'predict("averaged", table)  # with the columns context, question' in spans


def test_a_dry_run_writes_what_would_go_and_it_can_be_predicted_with(fold):
    said = publish(fold / "averaged", "me/easy", dry_run=True)
    target = fold / "averaged-hub"
    names = sorted(path.name for path in target.iterdir())
    assert said.endswith(f"would go to me/easy: {', '.join(names)}.")
    assert {"README.md", "manifest.json", "model.safetensors", "model.py", "tokenizer.json"} <= set(names)
    assert (target / "README.md").read_text() == card(fold / "averaged", "me/easy")
    one, other = (predict(path, ["a text"])["target"] for path in (target, fold / "averaged"))
    np.testing.assert_array_equal(one, other)
    (fold / "averaged" / "README.md").write_text("my own words")
    publish(fold / "averaged", "me/easy", dry_run=True)
    assert (target / "README.md").read_text() == "my own words"
    (fold / "averaged" / "README.md").unlink()


def test_what_was_not_written_by_it_is_not_replaced_and_a_full_disk_is_told(fold, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="mine exists and was not written by publish; move it away"):
        stage(fold / "averaged", tmp_path / "mine", "me/easy")

    def copy(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", copy)
    with pytest.raises(
        InputError, match=r"new cannot be written \(No space left on device\); free some space"
    ):
        stage(fold / "averaged", tmp_path / "new", "me/easy")
    assert not (tmp_path / "new").exists()


def test_weights_that_were_chosen_on_the_rows_that_score_them_say_so(fold):
    assert "scored best on the same rows, so that the scores flatter" in card(fold / "best")
    assert "flatter" not in card(fold / "averaged")


@pytest.fixture
def hub():
    """A stand-in of the hub's HTTP interface; ``received`` are the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((self.path, self.headers["Authorization"], body))
            if self.headers["Authorization"] != "Bearer hf_right":
                return self.answer(403, {"error": "no"})
            if self.path.endswith("/preupload/main"):
                paths = [one["path"] for one in json.loads(body)["files"]]
                modes = {"uploadMode": "regular", "shouldIgnore": False}
                return self.answer(200, {"files": [{"path": path, **modes} for path in paths]})
            address = f"{server.url}/me/easy"
            done = {"url": address, "commitUrl": f"{address}/commit/1", "commitOid": "1", "success": True}
            return self.answer(200, done)

        def do_GET(self):
            server.received.append((self.path, self.headers["Authorization"], b""))
            self.answer(200, {"id": "me/easy", "sha": "1" * 40, "siblings": []})

        def answer(self, status, content):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.url = [], f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def push(folder, hub, token, name="me/easy", home="/nonexistent"):
    command = [sys.executable, "-m", "utils", "publish", str(folder), "--to", name]
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    variables |= {"HF_TOKEN": token} if token else {}
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN",)} | variables
    return subprocess.run(
        command, cwd=runtime.ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_folder_and_its_card_are_pushed_and_the_token_is_never_printed(fold, hub, tmp_path):
    done = push(fold / "averaged", hub, "hf_right", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Published, for you alone: {hub.url}/me/easy\n"
    created, commit = ((path, body) for path, _, body in hub.received if re.search("create|commit", path))
    wanted = json.loads(created[1])
    assert wanted.get("private") or wanted["visibility"] == "private"
    lines = [json.loads(line) for line in commit[1].splitlines()]
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    assert sent["model.safetensors"] == (fold / "averaged" / "model.safetensors").read_bytes()
    assert sent["README.md"].decode() == card(fold / "averaged", "me/easy")
    assert not list(fold.glob("tmp*"))
    assert "hf_" not in done.stdout + done.stderr


@pytest.mark.full
def test_a_hub_that_refuses_is_one_sentence(fold, hub, tmp_path):
    refused = push(fold / "averaged", hub, "hf_wrong", home=tmp_path)
    assert refused.returncode == 1
    assert "was not published: the hub answered 403; check that the token may write to me" in refused.stderr
    assert "hf_" not in refused.stdout + refused.stderr


def test_without_a_token_or_a_name_nothing_is_sent(fold, monkeypatch):
    monkeypatch.setattr("utils.release.publish.get_token", lambda: None)
    with pytest.raises(InputError, match="no token for the hub; run: hf auth login, or set HF_TOKEN"):
        publish(fold / "averaged", "me/easy")
    with pytest.raises(InputError, match="'easy' is no model of the hub; write owner/name"):
        publish(fold / "averaged", "easy")
    with pytest.raises(InputError, match="holds no model"):
        publish(fold, "me/easy", dry_run=True)
    assert not fold.with_name("fold-0-hub").exists()
