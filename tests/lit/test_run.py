"""A run opened in LIT: what is kept, what is freed, which options are refused, and the command line."""

import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import requests

from tests.lit.conftest import HELD_OUT, MODEL, SCORE, predict, text_of
from utils.__main__ import main
from utils.config import Config, InputError
from utils.explain.explainer import Explainer
from utils.lit.run import start
from utils.lit.server import Lit
from utils.machine import runtime
from utils.runs.artifacts import seal_fold
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import add_folds, load_table


def test_a_second_start_keeps_the_server_until_the_weights_change(trained, tmp_path, alone, capsys):
    folder = shutil.copytree(trained.folders[0], tmp_path / "fold-0")
    copy = replace(trained, folders={0: folder})
    first = start(copy, texts=3)
    assert "1 models, 3 texts, about" in capsys.readouterr().out
    assert start(copy, texts=3) is first
    before = [row[SCORE] for row in predict(first, first.ask("get_dataset", dataset_name=HELD_OUT), SCORE)]
    shutil.copytree(folder / "last", folder / "averaged", dirs_exist_ok=True)
    seal_fold(folder)
    second = start(copy, texts=3)
    assert second is not first
    assert not first.running
    after = [row[SCORE] for row in predict(second, second.ask("get_dataset", dataset_name=HELD_OUT), SCORE)]
    assert np.abs(np.subtract(before, after)).max() > 1e-4, "kept for other weights"


def test_of_several_targets_the_one_asked_for_is_explained(tmp_path, alone):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv")
    table.assign(hardness=10 - table["target"]).to_csv(tmp_path / "two.csv", index=False)
    paths = {"output_dir": str(tmp_path / "output"), "data": str(tmp_path / "two.csv")}
    settings = {"precision": "fp32", "lr": 3e-3, "epochs": 6, "swa_start": 3}
    config = Config.make("tiny", target_columns="target,hardness", **paths, **settings)
    fit_fold(config, add_folds(load_table(config), config))
    run = open_run(config)
    lit = start(run, texts=4, target="hardness")
    rows = lit.ask("get_dataset", dataset_name=HELD_OUT)
    explainer = Explainer(run.folders[0] / "averaged", run.task, output=1)
    predictions = predict(lit, rows, "predicted target,predicted hardness")
    expected = explainer.scores([text_of(row) for row in rows])
    for number, name in enumerate(("predicted target", "predicted hardness")):
        np.testing.assert_allclose([row[name] for row in predictions], expected[:, number], atol=1e-4)
    middle = run.table["hardness"].median()
    for row in rows:
        assert (row["data"]["band"] == "higher") == (row["data"]["hardness"] > middle)
    one = explainer.read([text_of(rows[0])])[0]
    ((_, slopes),) = lit.salience("Grad L2 Norm", MODEL, HELD_OUT, rows[:1])
    norms = np.linalg.norm(one.gradients, axis=1)
    np.testing.assert_allclose(slopes, norms / norms.max(), atol=1e-4)
    fields = [{}, *({"_salience_target": {"field": f"predicted {name}"}} for name in ("hardness", "target"))]
    answers = [lit.salience("LIME", MODEL, HELD_OUT, rows[:1], **field) for field in fields]
    default, hardness, target = (values for ((_, values),) in answers)
    np.testing.assert_allclose(default, hardness)
    assert np.abs(default - target).max() > 0.1


def test_texts_without_a_truth_are_a_data_set_of_their_own(trained, tmp_path, alone):
    pd.DataFrame({"id": ["x", "y"], "excerpt": ["A cat sat.", "Rain fell."]}).to_csv(tmp_path / "new.csv")
    one = replace(trained, folders={0: trained.folders[0]})
    lit = start(one, texts=2, test=str(tmp_path / "new.csv"))
    assert list(lit.ask("get_info")["datasets"])[:2] == [HELD_OUT, "test"]
    rows = lit.ask("get_dataset", dataset_name="test")
    assert [(row["data"]["id"], row["data"]["target"], row["data"]["fold"]) for row in rows] == [
        ("x", None, ""),
        ("y", None, ""),
    ]
    scores = [answer[SCORE] for answer in predict(lit, rows, SCORE, dataset="test")]
    expected = Explainer(trained.folders[0] / "averaged", trained.task).scores(["A cat sat.", "Rain fell."])
    np.testing.assert_allclose(scores, expected[:, 0], atol=1e-5)
    answers = lit.ask("get_metrics", {"inputs": rows}, model=MODEL, dataset_name="test")
    assert answers["regression"][0]["metrics"] == {}
    assert start(one, texts=2) is not lit


def test_stop_frees_the_port_at_once(trained, alone):
    one = replace(trained, folders={0: trained.folders[0]})
    lit = start(one, texts=2)
    with pytest.raises(InputError, match=rf"port {lit.port} of 127\.0\.0\.1 is not available; choose"):
        Lit(None, "127.0.0.1", lit.port)
    inside = weakref.ref(lit._guard.app)
    lit.stop()
    with socket.socket() as again:
        again.bind(("127.0.0.1", lit.port))
        again.listen()
        gc.collect()
        assert inside() is None, "its models would pile up"
        with pytest.raises(InputError, match="is not available"):
            start(one, port=lit.port)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "average"}, "weights='average' is not known; did you mean 'averaged'?"),
        ({"weights": ""}, "weights='' is not known; choose one of: averaged, best, last."),
        ({"target": "score"}, "target='score' is not known; choose one of: target."),
        ({"texts": "ten"}, "texts='ten' cannot be used; it must be a whole number from 0 to"),
        ({"port": 70000}, "port=70000 cannot be used; it must be a whole number from 0 to 65535."),
        ({"host": "no.such.host.invalid"}, "host='no.such.host.invalid' is not an address of this machine"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_in_a_sentence(trained, alone, options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        start(trained, **options)


def test_the_command_line_trains_nothing(tmp_path):
    with pytest.raises(SystemExit, match="holds no finished fold; train one first"):
        main(["lit", "-p", "preset", "tiny", "-p", "output_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_the_command_line_serves_until_ctrl_c(trained):
    config = trained.config
    settings = {"preset": "tiny", "output_dir": config.output_dir, "epochs": config.epochs, "max_rows": 0}
    command = [sys.executable, "-m", "utils", "lit", "--port", "0", "--texts", "2"]
    command += [word for name, value in settings.items() for word in ("-p", name, str(value))]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A shell lets its background processes, and what they start, ignore Ctrl-C.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=runtime.ROOT, env=environment, **options) as process:
        output = ""
        while "LIT is at" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        address = re.search(r"http://127\.0\.0\.1:\d+/", output)[0]
        assert requests.get(address, timeout=30).ok
        process.send_signal(signal.SIGINT)
        assert "Stopping." in process.stdout.read()
    assert process.returncode == 0
