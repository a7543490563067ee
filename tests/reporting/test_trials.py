"""Trials with several seeds: their scores, their trajectories, their spread."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.tasks.helpers import make_run
from utils.reporting import trials as report
from utils.runs.trials import open_trials, trial_histories, trial_scores
from utils.runs.variants import train_variants


def trial(name, classes, seed, **options):
    run = make_run(name, classes, seed=seed, **options)
    return replace(run, config=replace(run.config, seed=seed))


@pytest.fixture(params=[("multiclass", 3), ("regression", 3)])
def variants(request):
    """Three trials of each of two variants."""
    return {
        "plain $x$": [trial(*request.param, seed) for seed in range(3)],
        "50% & more": [trial(*request.param, seed, noise=0.1) for seed in range(3)],
    }


def test_every_score_of_every_trial(variants):
    scores = trial_scores(variants)
    assert scores["trial"].tolist() == [0, 1, 2] * 2
    (first, *_), _ = variants.values()
    metric = first.task.metric.name
    assert scores[metric][0] == first.task.score(first.targets, first.values("averaged"))
    assert (scores.groupby("variant")[metric].nunique() > 1).all()


def test_a_table_has_means_and_deviations_and_becomes_latex(variants):
    scores, task = trial_scores(variants), type(next(iter(variants.values()))[0].task)
    table = report.trials_table(scores, task)
    of_first = scores.loc[scores["variant"] == "plain $x$", task.metric.name]
    cell = table.loc["plain $x$", task.metric.label]
    assert cell == f"{of_first.mean():.4f} ± {of_first.std(ddof=1):.4f}"
    assert table["trials"].tolist() == [3, 3]
    latex = report.latex_table(table, caption="Three seeds")
    assert r"plain \$x\$" in latex
    assert r"50\% \& more" in latex
    assert cell.replace("±", r"$\pm$") in latex
    assert latex.count("\\\\\n") == 3, "a line of headings and one of each variant"


def test_one_trial_has_no_deviation_and_is_drawn(variants):
    one = trial_scores({name: runs[:1] for name, runs in variants.items()})
    run = next(iter(variants.values()))[0]
    assert (
        not report.trials_table(one, type(run.task))
        .map(str)
        .apply(lambda c: c.str.contains("±|nan"))
        .any()
        .any()
    )
    report.plot_spread(one, run.task.metric)


def test_boxes_violins_and_every_trial_are_drawn(variants):
    metric = next(iter(variants.values()))[0].task.metric
    left, right = report.plot_spread(trial_scores(variants), metric).axes
    for axes in (left, right):
        points = [line for line in axes.lines if line.get_marker() == "o"]
        assert [len(line.get_ydata()) for line in points] == [3, 3]
        assert axes.get_xticklabels()[0].get_text() == r"plain \$x\$"


def test_trajectories_show_the_range_of_trials():
    rows = [("a", t, e + 0.02 * t, 0.1 * t + e) for t in (1, 2) for e in (1.0, 2.0)]
    histories = pd.DataFrame(rows, columns=["variant", "trial", "epoch", "last"]).assign(
        averaged=np.nan, fold=0
    )
    axes = report.plot_trajectories(histories, make_run("binary", 2).task.metric).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [(1.03, 1.15), (2.03, 2.15)])
    assert len(axes.collections) == 1


def test_the_runs_of_a_batch_of_seeds_are_opened_and_their_histories_read(tiny):
    names = {f"seed {seed}": {"seed": seed, "run": f"tiny-seed-{seed}"} for seed in (1, 2)}
    train_variants(tiny(epochs=1, averaging="none"), names, [0])
    runs = open_trials(tiny(), [1, 2])
    histories = trial_histories({"tiny": runs})
    assert histories.groupby(["trial", "fold"]).size().to_dict() == {(1, 0): 1, (2, 0): 1}
    assert histories["last"].iloc[0] == pytest.approx(trial_scores({"tiny": runs}, "last")["rmse"].iloc[0])
    report.plot_trajectories(histories, runs[0].task.metric)
