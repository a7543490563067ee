"""What another loop leaves: the same folder, in which every later step finds what it needs."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config

from tests.conftest import save_encoder
from tests.runs.helpers import Stop, stop_after
from tests.trainers import helpers
from tests.trainers.helpers import LOOPS, make_fold, needs_lightning, train
from utils import predict
from utils.config import InputError
from utils.modeling.model import TextModel
from utils.runs import artifacts, seal
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.runs.submission import predict_test

OPTIONS = {"epochs": 3.5, "swa_start": 1.0, "swa_every": 2, "eval_every": 2, "samples_every": 3}


def checkpoint_of(loop, folder):
    """The weights of the other loop's own checkpoint, by our names."""
    if loop == "hugging_face":
        (path,) = (folder / "hugging_face").glob("checkpoint-*")
        return TextModel.from_pretrained(path).state_dict()
    (path,) = (folder / "lightning").glob("*.ckpt")
    weights = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in weights.items()}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_folder_is_ours(loop, workspace):
    """Same files, history, samples, scores and predictions; and its own best checkpoint is our best/."""
    ours = fit_fold((fold := make_fold(workspace, run="ours", **OPTIONS)).config, fold.table)
    other = make_fold(workspace, run=loop, **OPTIONS)
    train(loop, other)
    folder = artifacts.fold_folder(other.config)
    assert artifacts.is_finished(folder)
    files = [set(seal.verify(path)["files"]) for path in (ours, folder)]
    assert files[0] == files[1]
    assert json.loads((folder / "run.json").read_text())["loop"].split()[0] in ("lightning", "transformers")
    for weights in artifacts.WEIGHTS:
        pair = [load_file(path / weights / "model.safetensors") for path in (ours, folder)]
        helpers.assert_close(*pair)
    helpers.assert_close(checkpoint_of(loop, folder), load_file(folder / "best" / "model.safetensors"))
    numbers = [artifacts.read_predictions(path).set_index("id") for path in (ours, folder)]
    pd.testing.assert_frame_equal(*numbers, rtol=1e-3, atol=1e-5)
    timings = ["seconds", "samples_per_second"]
    histories = [pd.read_csv(path / "history.csv").drop(columns=timings) for path in (ours, folder)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-3, atol=1e-5)
    samples = [artifacts.read_samples(path) for path in (ours, folder)]
    assert samples[1]["step"].nunique() > len(histories[1]), "also between the evaluations"
    pd.testing.assert_frame_equal(*samples, rtol=1e-3, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("loop", LOOPS)
def test_weights_cross_over(loop, workspace):
    """What one loop has trained, ours goes on from, and the other way round; all of it is read as a run."""
    first = make_fold(workspace, run="first", averaging="none", epochs=1)
    train(loop, first)
    folder = artifacts.fold_folder(first.config)
    run = open_run(first.config)
    assert list(run.weights) == ["last", "best"]
    known = run.values("last")
    assert predict_test(run, run.table, ["last"])["last"].shape[1] == len(run.table)
    held_out = run.table[run.table["fold"] == 0]
    again = predict(folder / "last", held_out[["id", "excerpt"]])
    np.testing.assert_allclose(again["target"].to_numpy()[:, None], known, rtol=1e-3, atol=1e-5)
    second = make_fold(workspace, run="second", encoder=str(folder / "last"), averaging="none", epochs=1)
    helpers.assert_close(
        second.training.model.state_dict(), load_file(folder / "last" / "model.safetensors"), atol=0
    )
    ours = helpers.train_ours(second)
    train(loop, second, keep=False)
    helpers.assert_close(second.training.model.state_dict(), ours.model.state_dict())


@pytest.mark.full
@pytest.mark.parametrize("loop", LOOPS)
def test_a_training_of_our_own_loop_is_not_replaced(loop, workspace, monkeypatch):
    fold = make_fold(workspace, epochs=1, averaging="none")
    restore = stop_after(3, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(dataclasses.replace(fold.config, save_every=1), fold.table)
    restore()
    with pytest.raises(InputError, match=r"has not ended; end it with fit_fold, or set retrain=True"):
        train(loop, fold)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_encoder_that_cannot_work_is_refused_there_too(loop, workspace, tmp_path):
    encoder = save_encoder(tmp_path / "gpt2", GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=2001))
    with pytest.raises(InputError, match="takes a token that does not see the text"):
        train(loop, make_fold(workspace, encoder=str(encoder), pooling="cls"))


@pytest.mark.full
@pytest.mark.parametrize("loop", LOOPS)
def test_a_finished_fold_is_not_replaced(loop, workspace):
    fold = make_fold(workspace, epochs=1, averaging="none")
    train(loop, fold)
    with pytest.raises(InputError, match=r"is finished already; set retrain=True, or another run"):
        train(loop, make_fold(workspace, epochs=1, averaging="none"))


@pytest.mark.full
@pytest.mark.parametrize("loop", LOOPS)
def test_patience_stops_it(loop, workspace):
    """At the same evaluation as in our loop; the rate is far too high for the scores to go on rising."""
    options = {"lr": 1.0, "max_grad_norm": 0, "patience": 1, "averaging": "none", "epochs": 9}
    fold = make_fold(workspace, run="other", **options)
    train(loop, fold)
    ours = fit_fold((own := make_fold(workspace, run="ours", **options)).config, own.table)
    results = [artifacts.read_result(path) for path in (ours, artifacts.fold_folder(fold.config))]
    assert [result["stopped_by"] for result in results] == ["patience", "patience"]
    assert results[0]["steps"] == results[1]["steps"] < fold.training.total_steps


@needs_lightning
def test_lightning_tests_the_best_weights(workspace):
    """The checkpoint by metric is loaded before testing, and scored over the whole held-out set."""
    from utils.trainers.lightning import FoldData, FoldModule, Watch, make_trainer

    fold = make_fold(workspace, "binary", run="labels", averaging="none", epochs=4)
    data = FoldData(fold)
    module = FoldModule(data)
    trainer = make_trainer(data, Watch(helpers.Observer()), **helpers.QUIET)
    trainer.fit(module, data)
    (scores,) = trainer.test(module, data, ckpt_path="best", verbose=False)
    result = artifacts.read_result(artifacts.fold_folder(fold.config))
    assert scores == pytest.approx(result["scores"]["best"], rel=1e-4)
    assert {"accuracy", "auroc"} <= scores.keys()


@pytest.mark.full
def test_the_trainer_loads_the_best_weights_at_the_end(workspace):
    fold = make_fold(workspace, "binary", run="labels", averaging="none", epochs=4)
    trainer = train("hugging_face", fold, load_best_model_at_end=True)
    result = artifacts.read_result(artifacts.fold_folder(fold.config))
    scores = trainer.evaluate(metric_key_prefix="test")
    assert scores["test_auroc"] == pytest.approx(result["scores"]["best"]["auroc"], rel=1e-4)
    folder = artifacts.fold_folder(fold.config)
    last = load_file(folder / "last" / "model.safetensors")
    helpers.assert_close(
        last,
        helpers.train_ours(make_fold(workspace, "binary", averaging="none", epochs=4)).model.state_dict(),
    )


@pytest.mark.full
@pytest.mark.parametrize("loop", LOOPS)
def test_tensorboard_has_the_scores(loop, workspace, monkeypatch):
    pytest.importorskip("tensorboard", reason="requirements-trainers.txt is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = workspace / "logs"
    if loop == "lightning":
        from lightning.pytorch.loggers import TensorBoardLogger

        options = {"logger": TensorBoardLogger(logs), "log_every_n_steps": 1}
    else:
        options = {"report_to": ["tensorboard"], "logging_steps": 1}
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(logs))
    train(loop, make_fold(workspace, epochs=1, averaging="none"), keep=False, **options)
    (events,) = logs.rglob("events*")
    reader = EventAccumulator(str(events.parent))
    reader.Reload()
    tags = {tag.split("/")[-1] for tag in reader.Tags()["scalars"]}
    assert {"rmse", "pearson"} <= tags
    assert {"train_loss", "loss"} & tags
