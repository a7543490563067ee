"""What training a fold leaves behind, what it learns, and what it refuses."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from tests.runs.helpers import after_each, held_out_rows, scores_of
from utils.config import Config, InputError
from utils.machine import precision
from utils.runs import artifacts
from utils.runs.artifacts import load_model
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table, make_task
from utils.training.schedules import planned_rates

FILES = {"run.json", "history.csv", "result.json", "predictions.csv", "samples.jsonl", "manifest.json"}
FOLDERS = {"last", "best", "averaged", "snapshots"}


def test_a_fold_leaves_what_the_later_notebooks_read(tiny, tiny_table, capsys):
    config = tiny(epochs=3, swa_start=1)
    folder = fit_fold(config, tiny_table)
    assert {path.name for path in folder.iterdir()} == FILES | FOLDERS
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
    held_out = held_out_rows(tiny_table)
    assert predictions["id"].tolist() == held_out["id"].tolist()
    result = artifacts.read_result(folder)
    for weights in ("last", "best", "averaged"):
        rmse = float(np.sqrt(((predictions[weights] - predictions["target"]) ** 2).mean()))
        assert result["scores"][weights]["rmse"] == pytest.approx(rmse)
        # The saved weights are those that were scored, with the same head, scale and max_length.
        scores = scores_of(folder / weights, held_out["excerpt"])[:, 0]
        np.testing.assert_allclose(scores, predictions[weights], atol=1e-5)
    assert result["scores"]["last"]["rmse"] == pytest.approx(history["rmse"].iloc[-1])
    assert result["scores"]["averaged"]["rmse"] == pytest.approx(history["averaged_rmse"].iloc[-1])
    assert result["scores"]["best"]["rmse"] == pytest.approx(history["rmse"].min())
    assert (result["default"], result["n_averaged"]) == ("averaged", 2)
    n_train = len(tiny_table) - len(held_out)
    assert result["steps"] == 3 * math.ceil(n_train / config.batch_size)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Fold 0: fp32 on ")
    assert len(lines) == 4


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny, tiny_table):
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


def test_a_plateau_counts_no_score_before_the_first_evaluation(tiny, tiny_table):
    options = {"schedule": "plateau", "lr_patience": 1, "lr": 5e-3, "warmup_ratio": 0.0, "averaging": "none"}
    config = tiny(epochs=4, eval_every=2, eval_from=2, **options)
    history = pd.read_csv(fit_fold(config, tiny_table) / "history.csv")
    assert history["step"].tolist() == [6, 8, 10, 12]
    shares = after_each(history["rmse"], make_task(config).metric, config.lr_factor)
    assert history["lr head"].tolist() == pytest.approx([share * config.lr for share in shares])
    group = {"name": "head", "lr": config.lr, "params": []}
    planned = planned_rates([group], config, 3, 12, history["rmse"].tolist())
    assert planned[-1]["head"] == pytest.approx(history["lr head"].iloc[-2])


def test_a_plateau_lowers_the_rates_by_the_scores_of_the_history(tiny, tiny_table):
    """From the warm-up's two steps to SWA's phase; each row has the rate of the step after it."""
    options = {
        "schedule": "plateau",
        "lr_patience": 1,
        "lr_factor": 0.5,
        "warmup_ratio": 0.1,
        "eval_every": 2,
    }
    config = tiny(epochs=8, swa_start=7, lr=5e-3, **options)
    folder = fit_fold(config, tiny_table)
    history = pd.read_csv(folder / "history.csv")
    shares = after_each(history["rmse"], make_task(config).metric, 0.5)
    before_swa = history["step"] < 7 * 3
    assert history["lr head"][before_swa].tolist() == pytest.approx(
        [share * config.lr for share in np.array(shares)[before_swa]]
    )
    assert min(shares) < 1, "no score was worse than the best, so nothing is tested"
    assert history["lr head"].iloc[-1] == pytest.approx(config.swa_lr_factor * config.lr)


def test_epochs_may_be_fractions(tiny, tiny_table):
    folder = fit_fold(tiny(epochs=1.5, swa_start=1), tiny_table)
    assert pd.read_csv(folder / "history.csv")["step"].tolist() == [3, 5]


@pytest.mark.parametrize("averaging", ["ema", "none"])
def test_other_kinds_of_averaging(tiny, tiny_table, averaging):
    folder = fit_fold(tiny(averaging=averaging), tiny_table)
    result = artifacts.read_result(folder)
    assert (folder / "averaged").is_dir() == (averaging == "ema")
    assert result["default"] == ("averaged" if averaging == "ema" else "last")
    assert result["n_averaged"] == (3 if averaging == "ema" else 0)


def test_ids_are_not_converted(tiny, tiny_table):
    held_out = held_out_rows(tiny_table).index
    tiny_table.loc[held_out[:2], "id"] = ["NA", "007"]
    predictions = artifacts.read_predictions(fit_fold(tiny(), tiny_table))
    assert predictions["id"].tolist()[:2] == ["NA", "007"]
    assert predictions["averaged"].dtype == float


def test_training_again_replaces_the_whole_folder(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table)
    (folder / "stale").write_text("old")
    assert fit_fold(tiny(averaging="none", retrain=True), tiny_table) == folder
    assert not (folder / "stale").exists()
    assert not (folder / "averaged").exists()


# --- learning ----------------------------------------------------------------------------------------------


def test_a_small_model_learns_the_sample(tiny, tiny_table):
    folder = fit_fold(tiny(epochs=30, swa_start=25, lr=5e-3), tiny_table)
    history = pd.read_csv(folder / "history.csv")
    assert history["train_loss"].iloc[-5:].mean() < 0.5 * history["train_loss"].iloc[0]


RECIPES = [
    {"pooling": "cls_layers"},
    {"pooling": "cls"},
    {"pooling": "attention"},
    {"optimizer": "madgrad", "lr": 2e-4, "head_lr_factor": 5.0},
    {"param_groups": "grouped", "loss": "rmse"},
]


@pytest.mark.full
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_learns_the_sample_with_the_real_encoder(workspace, recipe):
    config = Config.make("demo", **recipe)
    folder = fit_fold(config, add_folds(load_table(config), config))
    assert artifacts.read_result(folder)["scores"]["averaged"]["r2"] > 0.6


def test_half_precision_stays_close_to_single(tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    configs = [tiny(run=name, precision=name, head_dropout=0) for name in ("fp32", "bf16")]
    single, half = (artifacts.read_predictions(fit_fold(config, tiny_table)) for config in configs)
    assert not single["averaged"].equals(half["averaged"])
    np.testing.assert_allclose(single["averaged"], half["averaged"], atol=0.05)


def test_targets_of_any_scale_are_learned_equally_well(tiny, tiny_table):
    """Your own targets may go from 0 to 1000."""
    rescaled = tiny_table.assign(target=tiny_table["target"] * 250 + 750)
    a = pd.read_csv(fit_fold(tiny(run="a"), tiny_table) / "predictions.csv")
    b = pd.read_csv(fit_fold(tiny(run="b"), rescaled) / "predictions.csv")
    np.testing.assert_allclose(a["averaged"] * 250 + 750, b["averaged"], rtol=1e-3)


def test_a_constant_target_trains(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table.assign(target=2.0))
    assert pd.read_csv(folder / "predictions.csv")["averaged"].to_numpy() == pytest.approx(2.0, abs=0.5)


def test_the_feedback_preset_trains_six_targets(workspace):
    names = Config.make("feedback").target_columns
    generator = np.random.default_rng(0)
    words = ["plain", "words", "of", "an", "essay"]
    rows = pd.DataFrame({"text_id": [f"t{i}" for i in range(40)]})
    rows["full_text"] = [" ".join(generator.choice(words, 30)) for _ in range(40)]
    for name in names:
        rows[name] = generator.integers(2, 10, 40) / 2
    path = workspace / "data" / "feedback" / "train.csv"
    path.parent.mkdir(parents=True)
    rows.to_csv(path, index=False)
    config = Config.make(
        "feedback", encoder="tiny", max_length=64, precision="fp32", epochs=2, swa_start=1, swa_every=0
    )
    table = add_folds(load_table(config), config)
    folder = fit_fold(config, table)
    predictions = pd.read_csv(folder / "predictions.csv")
    columns = [f"cohesion {weights}" for weights in ("target", "last", "best", "averaged")]
    assert list(predictions)[:5] == ["id", *columns]
    scores = artifacts.read_result(folder)["scores"]["averaged"]
    assert scores["rmse"] == pytest.approx(np.mean([scores[f"rmse {name}"] for name in names]))
    expected = scores_of(folder / "averaged", held_out_rows(table)["full_text"])
    np.testing.assert_allclose(expected, predictions[[f"{name} averaged" for name in names]], atol=1e-5)


# --- refusals ----------------------------------------------------------------------------------------------


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
def test_impossible_settings_are_refused_before_anything_is_written(
    tiny, tiny_table, workspace, overrides, words
):
    with pytest.raises(InputError, match=words):
        fit_fold(tiny(**overrides), tiny_table)
    assert not (workspace / "output" / "tiny").exists()


def test_a_fold_that_does_not_exist_is_refused(tiny, tiny_table, workspace):
    with pytest.raises(InputError, match="fold=7 does not exist"):
        fit_fold(tiny(), tiny_table, fold=7)
    with pytest.raises(InputError, match="call add_folds first"):
        fit_fold(tiny(), tiny_table.drop(columns="fold"))


def test_divergence_is_reported(tiny, tiny_table):
    words = r"training diverged: the loss of step 2 is nan, on the texts \w+, .*; lower lr"
    with pytest.raises(InputError, match=words):
        fit_fold(tiny(lr=1e30, max_grad_norm=0), tiny_table)


def test_an_output_folder_that_cannot_be_written_is_reported(tiny, tiny_table, workspace):
    (workspace / "blocked").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        fit_fold(tiny(output_dir="blocked"), tiny_table)
