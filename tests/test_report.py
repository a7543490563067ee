import matplotlib.pyplot as plt
import pandas as pd
import pytest

from utils import report
from utils.checkpoint import read_predictions
from utils.config import Config
from utils.fold import fit_fold
from utils.model import build_model
from utils.optim import parameter_groups, planned_rates


@pytest.fixture
def folder(tiny, tiny_table):
    return fit_fold(tiny(), tiny_table)


@pytest.fixture(autouse=True)
def _close():
    report.use_style()
    yield
    plt.close("all")


def test_the_closing_table_has_a_row_for_each_weights(folder):
    table = report.scores_table(folder)
    assert list(table.index) == ["last", "best epoch (chosen on this fold)", "averaged"]
    assert list(table.columns[:2]) == ["RMSE", "pearson"]
    assert "mean RMSE of batches of 4" in table


def test_the_groups_table_counts_every_weight(tiny):
    model, _ = build_model(tiny())
    table = report.groups_table(parameter_groups(model, tiny())).data
    assert table["weights"].sum() == sum(p.numel() for p in model.parameters())


def test_folds_table(tiny, tiny_table):
    table = report.folds_table(tiny_table, tiny())
    assert table["rows"].sum() == 60
    assert table["different topic"].sum() == tiny_table["topic"].nunique()


def test_the_worst_predictions_are_the_worst(tiny, tiny_table, folder):
    predictions = read_predictions(folder)
    text = report.worst_predictions(tiny_table, predictions, tiny(), n=2).data
    off = (predictions["swa"] - predictions["target"]).abs().sort_values(ascending=False)
    assert [line.split("**")[1] for line in text.splitlines() if line.startswith("**")] == [
        predictions["id"][i] for i in off.index[:2]
    ]


def test_plots_draw_what_they_are_given(tiny, tiny_table, folder):
    config = tiny()
    figure = report.plot_data(tiny_table, [50, 100, 150], config)
    assert "67% of texts are cut at 64" in figure.axes[1].get_title(loc="left")
    assert "40.7% of tokens" in figure.axes[1].get_title(loc="left")
    model, _ = build_model(config)
    groups = parameter_groups(model, config)
    figure = report.plot_rates(planned_rates(groups, config, 3, 6), config, 3)
    assert [line.get_label() for line in figure.axes[0].lines] == ["embeddings", "layer 0", "layer 1", "head"]
    figure = report.plot_history(pd.read_csv(folder / "history.csv"))
    assert [line.get_label() for line in figure.axes[0].lines] == ["raw", "averaged"]
    predictions = pd.read_csv(folder / "predictions.csv")
    figure = report.plot_predictions(predictions, config)
    assert len(figure.axes[0].collections[0].get_offsets()) == len(predictions)


def test_several_targets_have_a_panel_each():
    config = Config.make("feedback")
    predictions = pd.DataFrame(
        {f"{name} {column}": [1.0, 2.0] for name in config.target_columns for column in ("target", "last", "swa")}
    )
    assert len(report.plot_predictions(predictions, config).axes) == 6


def test_the_source_shown_is_the_code_that_runs():
    from utils.train import add_gradients

    assert "backend.backward(share" in report.source(add_gradients).data


def test_the_end_of_make_run_tells_where_everything_lies(folder, workspace, capsys):
    report.tell(workspace / "output" / "tiny" / "02.ipynb", folder)
    text = capsys.readouterr().out
    assert "output/tiny/02.ipynb" in text
    assert "output/tiny/fold-0/swa" in text
    assert "output/tiny/fold-0/result.json" in text
    assert "chosen on this fold" in text
