"""Ids, texts, labels and names of columns are shown as they are, whatever they hold."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import mathtext

from tests import hostile
from utils.reporting import fold, machine, style, words
from utils.reporting import run as report
from utils.runs.compare import compare_weights
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import add_folds, load_table
from utils.training.optim import parameter_groups


@pytest.fixture
def trained(tiny, workspace):
    hostile.make_table().to_csv(workspace / "hostile.csv", index=False)
    config = tiny(data="hostile.csv", **hostile.COLUMNS)
    fit_fold(config, add_folds(load_table(config), config))
    return open_run(config)


@pytest.fixture
def no_formulas(monkeypatch):
    """Fails where matplotlib typesets something of the table; a logarithmic axis's numbers may be typeset."""
    parse = mathtext.MathTextParser.parse

    def watched(self, text, *args, **kwargs):
        assert "hostile" not in text
        return parse(self, text, *args, **kwargs)

    monkeypatch.setattr(mathtext.MathTextParser, "parse", watched)


def test_tables_and_listings_show_a_run_as_text(trained):
    run, task = trained, trained.task
    texts = run.table.set_index(run.config.id_column)[run.config.text_column]
    edits = [
        {"by": string, "text": f"{string} {texts.iloc[0]}", "score before": 0.0, "score after": 1.0}
        for string in hostile.STRINGS
    ]
    errors = report.errors_table(run, texts.str.len(), "topic")
    shown = [
        fold.worst_predictions(run.table, run.predictions, task, n=12),
        report.disagreements(run, errors, n=12),
        words.edits_table(edits, texts.iloc[0]),
        machine.sources_table({string: string for string in hostile.STRINGS}),
        fold.folds_table(run.table, task),
        fold.scores_table(run.folders[0]),
        report.weights_table(compare_weights(run), run),
        errors,
        run.table.head(12),
    ]
    page = hostile.check_page(hostile.exported(*shown))
    for string in hostile.STRINGS:
        assert page.count(string) >= 5, string


def test_nothing_of_a_styled_table_is_markup():
    index = pd.MultiIndex.from_product([hostile.STRINGS, [1]], names=hostile.STRINGS[:2])
    table = pd.DataFrame({name: list(hostile.STRINGS) for name in hostile.STRINGS}, index=index)
    table.columns.name = hostile.STRINGS[3]
    text = hostile.check_page(hostile.exported(style.styled(table), style.left_aligned(table)))
    for string in hostile.STRINGS:
        assert text.count(string) >= 2 * (1 + len(table)), string


def test_groups_of_weights_are_shown_as_text(trained):
    from utils.training.build import build_model

    group = parameter_groups(build_model(trained.config, trained.task)[0], trained.config)[0]
    groups = [group | {"name": string} for string in hostile.STRINGS]
    text = hostile.check_page(hostile.exported(fold.groups_table(groups)))
    assert all(string in text for string in hostile.STRINGS)


@pytest.mark.parametrize("string", [*hostile.STRINGS, "$a$ and $b$ hostile", r"\$5 hostile", "5 $ hostile"])
def test_plots_draw_dollar_signs_as_they_are(string, no_formulas):
    attention = np.full((1, 1, 2, 2), 0.5)
    effects = pd.DataFrame({"word": [string], "count": 5, "mean": 0.1, "error": 0.01})
    figures = {
        string: words.plot_heads([string, "x"], attention, [(0, 0)]),
        f"{string} (5)": words.plot_effects(effects),
        string + "!": words.plot_words({string + "!": ([string, "x"], np.array([1.0, -1.0]), True)}),
    }
    for expected, figure in figures.items():
        figure.canvas.draw()
        assert expected in [text.get_text().replace(r"\$", "$") for text in figure.findobj(plt.Text)]


def test_plots_of_a_run_draw_its_names_as_they_are(trained, no_formulas):
    run = trained
    lengths = run.table.set_index(run.config.id_column)[run.config.text_column].str.len()
    for by in ("topic", run.config.group_column, ""):
        report.plot_errors(run, report.errors_table(run, lengths, by), by).canvas.draw()
    fold.plot_data(run.table, lengths.tolist(), run.task).canvas.draw()
    fold.plot_predictions(run.predictions, run.task).canvas.draw()
