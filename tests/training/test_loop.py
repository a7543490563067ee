import json
import weakref

import numpy as np
import pandas as pd
import pytest
import torch

from tests.modeling.test_losses import SoftF1
from utils.config import Config, InputError
from utils.data import tokens
from utils.machine import precision, runtime
from utils.modeling.model import TextModel
from utils.runs import artifacts
from utils.runs.artifacts import load_model
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table
from utils.training import loop, setup
from utils.training.build import build_model
from utils.training.loop import add_gradients, evaluate, train_epoch
from utils.training.memory import retry_in_smaller_parts
from utils.training.setup import prepare


def scores_of(folder, weights, table, config, fold=0):
    """Scores of the held-out rows by the model in a folder, as a reader of it would compute them."""
    model, tokenizer = load_model(folder / weights)
    rows = table[table["fold"] == fold]
    with torch.no_grad():
        return np.stack(
            [
                model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0].numpy()
                for text in rows[config.text_column]
            ]
        )


def test_a_fold_leaves_what_the_later_notebooks_read(tiny, tiny_table, capsys):
    config = tiny(epochs=3, swa_start=1)
    folder = fit_fold(config, tiny_table)
    names = ["averaged", "best", "history.csv", "last", "predictions.csv", "result.json", "run.json", "snapshots"]
    assert sorted(path.name for path in folder.iterdir()) == names
    metadata = json.loads((folder / "run.json").read_text())
    assert metadata["config"] == json.loads(json.dumps({**config.to_dict(), "fold": 0}))
    assert metadata["precision"] == {"name": "fp32", "reason": "asked for"}
    assert metadata["versions"]["torch"] == torch.__version__
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["averaged_rmse"].isna().tolist() == [True, False, False]
    assert sum(name.startswith("lr ") for name in history) == 7
    predictions = pd.read_csv(folder / "predictions.csv", dtype={"id": str})
    assert list(predictions) == ["id", "target", "last", "best", "averaged"]
    held_out = tiny_table[tiny_table["fold"] == 0]
    assert predictions["id"].tolist() == held_out["id"].tolist()
    result = artifacts.read_result(folder)
    for weights in ("last", "best", "averaged"):
        rmse = float(np.sqrt(((predictions[weights] - predictions["target"]) ** 2).mean()))
        assert result["scores"][weights]["rmse"] == pytest.approx(rmse)
        # The weights on disk are those that were scored: head, length and scale included.
        scores = scores_of(folder, weights, tiny_table, config)[:, 0]
        np.testing.assert_allclose(scores, predictions[weights], atol=1e-5)
    assert result["scores"]["last"]["rmse"] == pytest.approx(history["rmse"].iloc[-1])
    assert result["scores"]["averaged"]["rmse"] == pytest.approx(history["averaged_rmse"].iloc[-1])
    assert result["scores"]["best"]["rmse"] == pytest.approx(history["rmse"].min())
    assert (result["default"], result["n_averaged"], result["steps"]) == ("averaged", 2, len(plan_steps(config, tiny_table)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Fold 0: fp32 on ")
    assert len(lines) == 4


@pytest.mark.skipif(runtime.device().type != "cpu", reason="GPUs keep torch's attention in every precision")
@pytest.mark.parametrize(("chosen", "implementation"), [("fp32", "sdpa"), ("bf16", "eager")])
def test_attention_is_the_one_that_is_faster_on_a_cpu(chosen, implementation, tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device_type: True)  # only chosen here, not computed in
    training = prepare(tiny(precision=chosen), tiny_table, 0)
    assert training.model.encoder.config._attn_implementation == implementation
    assert training.averager.model.encoder.config._attn_implementation == implementation


def plan_steps(config, table):
    rows = int((table["fold"] != config.fold).sum())
    return range(-(-rows // config.batch_size) * int(config.epochs))


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tiny, tiny_table):
    folders = [fit_fold(tiny(run=f"r{i}", seed=seed), tiny_table) for i, seed in enumerate([1, 1, 2])]
    states = [load_model(folder / "averaged")[0].state_dict() for folder in folders]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
    tables = [pd.read_csv(folder / "predictions.csv") for folder in folders]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_how_often_it_evaluates_does_not_change_the_training(tiny, tiny_table):
    options = {"encoder_dropout": 0.1, "swa_every": 2}
    seldom = fit_fold(tiny(run="seldom", **options), tiny_table)
    often = fit_fold(tiny(run="often", eval_every=1, **options), tiny_table)
    assert len(pd.read_csv(often / "history.csv")) == 6
    assert len(pd.read_csv(seldom / "history.csv")) == 2
    a, b = (pd.read_csv(folder / "predictions.csv") for folder in (seldom, often))
    pd.testing.assert_frame_equal(a[["last", "averaged"]], b[["last", "averaged"]])


@pytest.mark.parametrize("loss", ["mse", "rmse", "smooth_l1"])
def test_accumulation_is_the_whole_batch_in_parts(tiny, tiny_table, loss):
    """Same rows in every step, in one batch or in micro-batches: same weights, whatever the loss."""
    states = []
    for micro_batch in (8, 2):
        config = tiny(head_dropout=0, loss=loss, batch_size=micro_batch, accumulation_steps=8 // micro_batch)
        training = prepare(config, tiny_table, 0)
        order = np.arange(len(training.train))[: len(training.train) // 8 * 8]
        batches = order.reshape(-1, micro_batch).tolist()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "training_batches", lambda *_, batches=batches: batches)
            steps = list(train_epoch(training, 0))
        assert len(steps) == len(order) // 8
        states.append(training.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loss_of_several_statistics_has_the_whole_batchs_gradient(dropout, tiny, tiny_table):
    """In any number of parts where nothing is drawn; in one part with dropout, from the masks of its one forward pass."""
    training = prepare(tiny(head_dropout=dropout, batch_size=12), tiny_table, 0)
    training.task.loss = SoftF1()
    batch = next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))
    batch = batch._replace(targets=(batch.targets > 0).float())
    torch.manual_seed(1)
    training.model.train()
    expected = training.task.loss(training.model(**batch.inputs)["logits"], batch.targets)
    gradients = torch.autograd.grad(expected, list(training.model.parameters()))
    for parts in (1, 2, 5) if dropout == 0 else (1,):
        torch.manual_seed(1)
        training.optimizer.zero_grad()
        means = add_gradients(training, batch.split(parts))
        torch.testing.assert_close(training.task.loss.reduce(means), expected)
        for weight, gradient in zip(training.model.parameters(), gradients, strict=True):
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limit", [3, 1])
def test_memory_that_runs_out_halves_the_micro_batches(limit, tiny, tiny_table, monkeypatch, capsys):
    """A device that holds ``limit`` texts: the same weights as one that holds them all, and a line that says so."""
    options = {"head_dropout": 0, "batch_size": 8, "loss": "rmse", "accumulation_steps": 2}
    plain = fit_fold(tiny(run="plain", **options), tiny_table)
    forward = TextModel.forward

    def small(model, **inputs):
        if model.training and len(inputs["input_ids"]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, **inputs)

    monkeypatch.setattr(TextModel, "forward", small)
    capsys.readouterr()
    tight = fit_fold(tiny(run="tight", **options), tiny_table)
    said = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    parts = {3: (2, 4), 1: (2, 4, 8)}[limit]
    assert said == [f"Step 1: out of memory, so micro-batches are taken in {n} parts from here." for n in parts]
    a, b = (pd.read_csv(folder / "predictions.csv") for folder in (plain, tight))
    np.testing.assert_allclose(a[["last", "averaged"]], b[["last", "averaged"]], atol=1e-4)


def test_a_step_that_ran_out_of_memory_is_repeated_from_its_random_state(tiny, tiny_table, monkeypatch):
    training = prepare(tiny(encoder_dropout=0.5, batch_size=4), tiny_table, 0)
    batch = next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))
    torch.manual_seed(1)
    expected = add_gradients(training, batch.split(2))
    training.optimizer.zero_grad()
    forward, calls = TextModel.forward, []

    def fail_once(model, **inputs):
        calls.append(len(inputs["input_ids"]))
        found = forward(model, **inputs)  # draws masks, which the repetition must draw again
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return found

    monkeypatch.setattr(TextModel, "forward", fail_once)
    torch.manual_seed(1)
    assert torch.equal(retry_in_smaller_parts(training, [batch], add_gradients), expected)
    assert calls == [4, 2, 2]


def test_memory_that_ran_out_in_the_backward_pass_is_free_for_the_next_attempt(tiny, tiny_table, monkeypatch):
    """What the failed attempt had computed is gone by then, or the device's memory would hold both."""
    training = prepare(tiny(batch_size=4), tiny_table, 0)
    batch = next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))
    forward, backward, scores, alive = TextModel.forward, training.backend.backward, [], []

    def watched(model, **inputs):
        alive.append(any(found() is not None for found in scores))
        found = forward(model, **inputs)
        scores.append(weakref.ref(found["logits"]))
        return found

    def fail_once(loss, last):
        if len(alive) == 1:
            raise torch.OutOfMemoryError
        backward(loss, last)

    monkeypatch.setattr(TextModel, "forward", watched)
    monkeypatch.setattr(training.backend, "backward", fail_once)
    retry_in_smaller_parts(training, [batch], add_gradients)
    assert len(alive) == 3
    assert not alive[1]


def test_memory_for_not_even_one_text(tiny, tiny_table, monkeypatch):
    def none(model, **inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(TextModel, "forward", none)
    with pytest.raises(InputError, match="does not hold one text at a time; lower max_length"):
        fit_fold(tiny(), tiny_table)


def test_gradients_are_clipped(tiny, tiny_table):
    norms = []
    training = prepare(tiny(max_grad_norm=0.01), tiny_table, 0)

    def watch(optimizer, args, kwargs):
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in training.model.parameters()]).item())

    training.rates.optimizer.register_step_pre_hook(watch)
    list(train_epoch(training, 0))
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_epochs_may_be_fractions(tiny, tiny_table):
    folder = fit_fold(tiny(epochs=1.5, swa_start=1), tiny_table)
    assert pd.read_csv(folder / "history.csv")["step"].tolist() == [3, 5]


@pytest.mark.parametrize("averaging", ["ema", "none"])
def test_other_averages(tiny, tiny_table, averaging):
    folder = fit_fold(tiny(averaging=averaging), tiny_table)
    result = artifacts.read_result(folder)
    assert (folder / "averaged").is_dir() == (averaging == "ema")
    assert result["default"] == ("averaged" if averaging == "ema" else "last")
    assert result["n_averaged"] == (3 if averaging == "ema" else 0)


def test_batch_norm_of_the_average_is_refreshed(tiny, tiny_table, monkeypatch):
    def with_batch_norm(*args):
        model, tokenizer = build_model(*args)
        model.head.norm = torch.nn.BatchNorm1d(32)
        return model, tokenizer

    monkeypatch.setattr(setup, "build_model", with_batch_norm)
    training = prepare(tiny(), tiny_table, 0)
    for epoch in range(2):
        list(train_epoch(training, epoch))
    norm = training.averager.model.head.norm
    before = norm.running_mean.clone()
    evaluate(training)
    assert not torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 3


def test_a_small_model_learns_the_sample(tiny, tiny_table):
    folder = fit_fold(tiny(epochs=30, swa_start=25, lr=5e-3), tiny_table)
    history = pd.read_csv(folder / "history.csv")
    assert history["train_loss"].iloc[-5:].mean() < 0.5 * history["train_loss"].iloc[0]


RECIPES = [{"pooling": pooling} for pooling in ("cls_layers", "cls", "attention")]
RECIPES += [{"optimizer": "madgrad", "lr": 2e-4, "head_lr_factor": 5.0}, {"param_groups": "grouped", "loss": "rmse"}]


@pytest.mark.full
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_learns_the_sample_with_the_real_encoder(workspace, recipe):
    config = Config.make("demo", **recipe)
    folder = fit_fold(config, add_folds(load_table(config), config))
    assert artifacts.read_result(folder)["scores"]["averaged"]["r2"] > 0.6


def test_half_precision_stays_close_to_single(tiny, tiny_table, monkeypatch):
    from utils.machine import precision

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    found = [
        pd.read_csv(fit_fold(tiny(run=name, precision=name, head_dropout=0), tiny_table) / "predictions.csv")["averaged"]
        for name in ("fp32", "bf16")
    ]
    assert not found[0].equals(found[1])
    np.testing.assert_allclose(found[0], found[1], atol=0.05)


def test_targets_of_any_scale_are_learnt_alike(tiny, tiny_table):
    """A CSV of one's own may count from 0 to 1000."""
    other = tiny_table.assign(target=tiny_table["target"] * 250 + 750)
    a = pd.read_csv(fit_fold(tiny(run="a"), tiny_table) / "predictions.csv")
    b = pd.read_csv(fit_fold(tiny(run="b"), other) / "predictions.csv")
    np.testing.assert_allclose(a["averaged"] * 250 + 750, b["averaged"], rtol=1e-3)


def test_a_constant_target_trains(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table.assign(target=2.0))
    assert pd.read_csv(folder / "predictions.csv")["averaged"].to_numpy() == pytest.approx(2.0, abs=0.5)


def test_the_feedback_preset_trains_six_targets(workspace):
    names = Config.make("feedback").target_columns
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({"text_id": [f"t{i}" for i in range(40)]})
    rows["full_text"] = [" ".join(generator.choice(["plain", "words", "of", "an", "essay"], 30)) for _ in range(40)]
    for name in names:
        rows[name] = generator.integers(2, 10, 40) / 2
    path = workspace / "data" / "feedback" / "train.csv"
    path.parent.mkdir(parents=True)
    rows.to_csv(path, index=False)
    config = Config.make("feedback", encoder="tiny", precision="fp32", epochs=2, swa_start=1, swa_every=0)
    table = add_folds(load_table(config), config)
    folder = fit_fold(config, table)
    predictions = pd.read_csv(folder / "predictions.csv")
    assert list(predictions)[:5] == ["id", "cohesion target", "cohesion last", "cohesion best", "cohesion averaged"]
    scores = artifacts.read_result(folder)["scores"]["averaged"]
    assert scores["rmse"] == pytest.approx(np.mean([scores[f"rmse {name}"] for name in names]))
    expected = scores_of(folder, "averaged", table, config)
    np.testing.assert_allclose(expected, predictions[[f"{name} averaged" for name in names]], atol=1e-5)


def test_the_faster_ways_train_the_same(tiny, tiny_table, monkeypatch):
    """Attention, AdamW's kernel and padding as a plain loop has them: the same losses, to rounding."""

    def losses():
        training = prepare(tiny(head_dropout=0, epochs=4), tiny_table, 0)
        training.model.encoder.set_attn_implementation("eager" if plain else "sdpa")
        for epoch in range(4):
            list(train_epoch(training, epoch))
        return torch.stack(training.losses), next(training.model.parameters()).detach()

    plain = False
    fast = losses()
    plain, adamw, pad = True, torch.optim.AdamW, tokens.DataCollatorWithPadding
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused, **options: adamw(groups, foreach=False, **options))
    monkeypatch.setattr(tokens, "DataCollatorWithPadding", lambda tokenizer, **_: pad(tokenizer, "max_length", 64))
    slow = losses()
    assert len(fast[0]) == 12
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert not torch.equal(one, other), "the plain ways were not taken"


def test_texts_of_a_table_keep_their_order(tiny, tiny_table):
    training = prepare(tiny(head_dropout=0, eval_batch_size=3), tiny_table, 0)
    found = loop.predict(training, training.wrapped, training.held_out)
    sixth = tiny_table[tiny_table["fold"] == 0].iloc[5:6]
    one = training.task.encode(sixth, training.tokenizer)
    np.testing.assert_allclose(loop.predict(training, training.wrapped, one)[0], found[5], atol=1e-5)


# --- nothing half-written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"encoder": "nobody/nothing"}, "cannot be loaded"),
        ({"precision": "fp16"}, "needs a CUDA GPU"),
        ({"optimizer": "fused_adam"}, "needs NVIDIA Apex"),
        ({"max_length": 600}, "reads 512 tokens"),
        ({"swa_every": 100}, "average nothing in 6 steps"),
        ({"reinit_layers": 9}, "more than the encoder's 2 layers"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tiny, tiny_table, workspace, overrides, words):
    with pytest.raises(InputError, match=words):
        fit_fold(tiny(**overrides), tiny_table)
    assert not (workspace / "output" / "tiny").exists()


def test_a_fold_that_is_not_there(tiny, tiny_table, workspace):
    with pytest.raises(InputError, match="fold=7 does not exist"):
        fit_fold(tiny(), tiny_table, fold=7)
    with pytest.raises(InputError, match="call add_folds first"):
        fit_fold(tiny(), tiny_table.drop(columns="fold"))


def test_divergence_is_said(tiny, tiny_table):
    with pytest.raises(
        InputError, match=r"training diverged: the loss of step 2 is nan, on the texts \w+, .*; lower lr"
    ):
        fit_fold(tiny(lr=1e30, max_grad_norm=0), tiny_table)


def test_an_output_folder_that_cannot_be_written(tiny, tiny_table, workspace):
    (workspace / "blocked").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        fit_fold(tiny(output_dir="blocked"), tiny_table)


def test_ids_stay_what_they_are(tiny, tiny_table):
    tiny_table.loc[tiny_table.index[tiny_table["fold"] == 0][0], "id"] = "NA"
    tiny_table.loc[tiny_table.index[tiny_table["fold"] == 0][1], "id"] = "007"
    predictions = artifacts.read_predictions(fit_fold(tiny(), tiny_table))
    assert predictions["id"].tolist()[:2] == ["NA", "007"]
    assert predictions["averaged"].dtype == float


def test_training_again_replaces_the_whole_folder(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table)
    (folder / "stale").write_text("old")
    assert fit_fold(tiny(averaging="none", retrain=True), tiny_table) == folder
    assert not (folder / "stale").exists()
    assert not (folder / "averaged").exists()
