import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tests.conftest import CHOICES
from utils.config import Config
from utils.reporting import fold, rates, style
from utils.runs.artifacts import load_model, read_predictions, read_result
from utils.runs.fold import fit_fold
from utils.tasks import make_task
from utils.tasks.metrics import Metric
from utils.training.build import build_model
from utils.training.optim import parameter_groups


@pytest.fixture
def folder(tiny, tiny_table):
    return fit_fold(tiny(), tiny_table)


def test_the_closing_table_has_a_row_for_each_weights_and_each_baseline(folder):
    table, result = fold.scores_table(folder), read_result(folder)
    baselines = [f"baseline: {name}" for name in ("mean", "two counts", "TF-IDF, ridge")]
    assert list(table.index) == ["last", "best epoch (chosen on this fold)", "averaged", *baselines]
    assert list(table.columns[:2]) == ["RMSE", "Pearson's r"]
    assert "batch rmse" in table
    assert table.loc["averaged", "RMSE"] == pytest.approx(result["scores"]["averaged"]["rmse"], abs=1e-4)
    expected = result["baselines"]["two counts"]["spearman"]
    assert table.loc["baseline: two counts", "Spearman's ρ"] == pytest.approx(expected, abs=1e-4)


def test_the_groups_table_counts_every_weight(tiny):
    model, _ = build_model(tiny())
    table = fold.groups_table(parameter_groups(model, tiny())).data
    assert table["weights"].sum() == sum(p.numel() for p in model.parameters())


def test_folds_table(tiny, tiny_table):
    table = fold.folds_table(tiny_table, make_task(tiny()))
    assert table["rows"].sum() == 60
    assert table["different topic"].sum() == tiny_table["topic"].nunique()
    expected = tiny_table.loc[tiny_table["fold"] == 3, "target"].mean()
    assert table.loc[3, "mean target"] == pytest.approx(expected, abs=1e-3)


def test_the_worst_predictions_are_the_worst(tiny, tiny_table, folder):
    predictions = read_predictions(folder)
    page = fold.worst_predictions(tiny_table, predictions, make_task(tiny()), n=2).data
    off = (predictions["averaged"] - predictions["target"]).abs().sort_values(ascending=False)
    assert re.findall("<b>(.*?)</b>", page) == predictions["id"][off.index[:2]].tolist()
    worst = predictions.loc[off.index[0]]
    assert f"</b>: target {worst['target']:.2f}, predicted {worst['averaged']:.2f}</p><blockquote>" in page


def test_plots_draw_what_they_are_given(tiny, tiny_table, folder):
    config = tiny()
    task = make_task(config)
    figure = fold.plot_data(tiny_table, [50, 100, 150], task)
    assert "67% of texts are cut at 64" in figure.axes[1].get_title(loc="left")
    assert "40.7% of tokens" in figure.axes[1].get_title(loc="left")
    assert figure.axes[1].get_legend_handles_labels()[1] == ["max_length, 64"]
    assert len(figure.axes[0].patches) == tiny_table["target"].nunique(), "a bar per target, no comb of bins"
    model, _ = build_model(config)
    plan = rates.rates_of(model, config, 48)
    assert plan.index.tolist() == pytest.approx([step / 3 for step in range(6)])
    plan.iloc[0] = 0.0  # as at the foot of a warm-up
    figure = rates.plot_rates(plan, config)
    assert [line.get_label() for line in figure.axes[0].lines] == ["embeddings", "layer 0", "layer 1", "head"]
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[0]), "no log axis has a 0"
    assert figure.axes[0].get_ylim()[0] == pytest.approx(plan.max().min() / 30)
    history = pd.read_csv(folder / "history.csv")
    figure = fold.plot_history(history, task.metric)
    assert [line.get_label() for line in figure.axes[0].lines] == ["raw", "averaged"]
    assert figure.axes[0].get_ylabel() == "RMSE (target's units)"
    predictions = pd.read_csv(folder / "predictions.csv")
    figure = fold.plot_predictions(predictions, task)
    assert len(figure.axes[0].collections[0].get_offsets()) == len(predictions)


def test_every_schedule_is_plotted_with_what_it_depends_on(tiny):
    """A cycle's momentum, and the scores that a plateau is assumed to see."""
    model, plans = build_model(tiny())[0], {}
    for schedule in CHOICES["schedule"]:
        config = rates.with_schedule(tiny(min_lr_ratio=0.1, schedule="cosine"), schedule, eval_every=2)
        plans[schedule] = rates.rates_of(model, config, 48, [0.5, 0.4, 0.4, 0.3]), config
    figure = rates.plot_rate_panel(plans)
    beside = {axes.get_ylabel(): axes for axes in figure.axes if axes.get_ylabel()}
    assert set(beside) == {"momentum", "score, assumed"}
    assert beside["momentum"].lines[0].get_ydata()[0] == pytest.approx(0.95)
    assert beside["score, assumed"].lines[0].get_xydata().tolist() == [
        pytest.approx(point) for point in [(2 / 3, 0.5), (4 / 3, 0.4), (2, 0.4)]
    ]
    plan, config = rates.rates_of(model, plans["plateau"][1], 48), plans["plateau"][1]
    assert [text.get_text() for text in rates.plot_rates(plan, config).axes[0].texts] == [
        "no scores assumed, so no plateau"
    ]
    cycle = tiny(schedule="one_cycle", optimizer="madgrad")
    assert "momentum" not in rates.rates_of(model, cycle, 48).attrs, "MADGRAD's is of another meaning"


def test_the_history_of_any_metric_is_plotted():
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": 1.0, "qwk": [0.2, 0.3], "averaged_qwk": np.nan})
    axes = fold.plot_history(history, Metric("qwk", "QWK", higher_is_better=True)).axes[0]
    assert [line.get_label() for line in axes.lines] == ["raw"], "nothing has been averaged"
    assert axes.lines[0].get_ydata().tolist() == [0.2, 0.3]
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == ("Held-out QWK", "QWK")


def test_several_targets_have_a_panel_each():
    task = make_task(Config.make("feedback"))
    names = task.config.target_columns
    columns = [column for weights in ("target", "last", "averaged") for column in task.columns(weights)]
    predictions = pd.DataFrame({column: [1.0, 2.0] for column in columns})
    figure = fold.plot_predictions(predictions, task)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(names)


def test_predictions_that_are_no_number_per_target_are_not_plotted(tiny, monkeypatch, tmp_path):
    """Such as a probability per class."""
    task = make_task(tiny())
    monkeypatch.setattr(
        task, "columns", lambda name: [name] if name == "target" else [f"{name} a", f"{name} b"]
    )
    predictions = pd.DataFrame({"target": [0.0, 1.0], "last a": [0.4, 0.3], "last b": [0.6, 0.7]})
    assert fold.plot_predictions(predictions, task) is None
    style.save(None, tmp_path / "predictions.png")
    assert not (tmp_path / "predictions.png").exists()


def test_the_files_of_a_fold_are_listed_with_their_sizes(tmp_path):
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "model.safetensors").write_bytes(b"0" * 3 * 2**20)
    (tmp_path / "run.json").write_text("{}")
    _, first, second = fold.files_tree(tmp_path).splitlines()
    assert first.split() == ["run.json", "0.0", "KiB"], "the folder's own files come first"
    assert second.split() == ["last/model.safetensors", "3.0", "MiB"]


def test_the_source_shown_is_the_code_that_runs():
    from utils.modeling.pooling import LayerPooling, MeanLayers
    from utils.training.loop import add_gradients

    assert "backend.backward(" in style.source(add_gradients).data
    listing = style.source(LayerPooling, MeanLayers.token_shares).data
    assert listing.startswith("```\nclass LayerPooling"), "a language would cost the monospace font"
    assert "\n\n\ndef token_shares" in listing, "dedented, after two blank lines"


def test_a_plot_is_saved_with_its_folder(tmp_path):
    figure, _ = plt.subplots()
    style.save(figure, tmp_path / "pictures" / "empty.png")
    assert (tmp_path / "pictures" / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_names_every_result(folder, workspace, capsys):
    fold.print_summary(workspace / "output" / "tiny" / "02.ipynb", folder)
    text = capsys.readouterr().out
    assert "output/tiny/02.ipynb" in text
    assert "output/tiny/fold-0/averaged" in text
    assert "output/tiny/fold-0/result.json" in text
    assert "chosen on this fold" in text
    assert "baseline: mean" in text
    assert "fp32 on CPU" in text
    model, _ = load_model(folder / "last")
    parts = {name: sum(w.numel() for w in getattr(model, name).parameters()) for name in ("encoder", "head")}
    total = f"{sum(weight.numel() for weight in model.parameters()):,}"
    assert f"{total} parameters (encoder {parts['encoder']:,}, head {parts['head']:,}, pooling " in text
    assert f"{total} of them trained" in text
