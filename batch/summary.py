"""The results of a batch: a table of its folds, their cross-validated scores, notebooks 03 and 06 on them."""

import contextlib
from pathlib import Path

import pandas as pd
from rich.table import Table

from batch import execute
from batch.grid import Job
from batch.watch import Status, console, say
from utils.config import Config, InputError
from utils.machine import files, runtime
from utils.runs import artifacts, submission
from utils.runs.compare import compare_weights, verdict
from utils.runs.run import QUICK, open_run
from utils.tasks import make_task


def write_summary(statuses: list[Status], varied: list[str], path: Path) -> None:
    """Write a row per fold: the settings that vary, status, scores, times. Other folds' rows are kept."""
    table = pd.DataFrame([summary_row(status, varied) for status in statuses])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        earlier = pd.read_csv(path, dtype={"run": str})
        written = set(zip(table["run"], table["fold"], strict=True))
        kept = [key not in written for key in zip(earlier["run"], earlier["fold"], strict=True)]
        table = pd.concat([earlier[kept], table], ignore_index=True) if any(kept) else table
    files.write_table(path, table.sort_values(["run", "fold"], kind="stable"))


def summary_row(status: Status, varied: list[str]) -> dict:
    job, metric = status.job, make_task(status.job.config).metric.name
    result = artifacts.read_result(job.folder) if status.state.finished else {}
    row = {"run": job.config.run_name, "fold": job.config.fold}
    row |= {name: job.parameters[name] for name in varied}
    row |= {"state": status.state, "tries": status.tries}
    row |= {f"{metric}_{weights}": scores[metric] for weights, scores in result.get("scores", {}).items()}
    row |= {name: result.get(name) for name in ("seconds", "samples_per_second")}
    return row | {"error": status.error, "notebook": runtime.display_path(job.notebook)}


def show_scores(configs: list[Config]) -> dict[str, str]:
    """Print the runs' cross-validated scores; the messages of what failed, by run."""
    tables, verdicts, errors = {}, [], {}
    for config in configs:
        if not finished_folds(artifacts.fold_folder(config).parent):
            continue
        try:
            with contextlib.redirect_stdout(None):  # it names the missing folds, and the table shows them
                run = open_run(config)
        except InputError as error:
            errors[f"scoring {config.run_name}"] = str(error)
            continue
        comparison, metric = compare_weights(run), run.task.metric
        title = f"{metric.label} over all held-out texts (95 % interval)"
        table = tables.setdefault(title, Table("run", "folds", "last", "best epoch", "averaged", title=title))
        table.add_row(config.run_name, ", ".join(map(str, run.folders)), *score_cells(comparison))
        verdicts.append(f"{config.run_name}: {verdict(comparison, metric).replace('**', '')}")
    with contextlib.suppress(OSError):  # the terminal has been closed
        for table in tables.values():
            console.print(table)
    for sentence in verdicts:
        say(sentence)
    return errors


def score_cells(comparison: pd.DataFrame) -> list[str]:
    """The score over all folds and its interval, by weights; "" for those that the run lacks."""
    overall = comparison[comparison["fold"] == "all"].set_index("weights")
    rows = overall.reindex(list(artifacts.WEIGHTS))[["score", "low", "high"]].itertuples(index=False)
    return ["" if pd.isna(score) else f"{score:.4f} ({low:.3f} to {high:.3f})" for score, low, high in rows]


def finished_folds(run_folder: Path) -> list[Path]:
    finished = []
    for folder in run_folder.glob("fold-*"):
        with contextlib.suppress(InputError):  # damaged, which training it reports
            finished += [folder] if artifacts.is_finished(folder) else []
    return finished


def evaluate(jobs: list[Job], stopped: execute.Stopped) -> dict[str, str]:
    """Execute notebooks 03 and 06 on one run, unless they are up to date; the messages of what failed."""
    config, run_folder = jobs[0].config, jobs[0].run_folder
    finished = finished_folds(run_folder)
    if reason := reason_to_skip(jobs, finished):
        say(f"{config.run_name}: notebooks 03 and 06 are skipped ({reason}).")
        return {}
    dropped = ("fold", "retrain", "time_limit_hours", "devices", "resume_from")
    parameters = {name: value for name, value in jobs[0].parameters.items() if name not in dropped}
    trained = max((folder / "result.json").stat().st_mtime for folder in finished)
    errors = {}
    for name, extra in (("03_swa_evaluation", {"low_precision": False}), ("06_submission", {})):
        output = run_folder / f"{name}.ipynb"
        if stopped() or (execute.is_executed(output) and output.stat().st_mtime > trained):
            continue
        try:
            if name == "06_submission":
                submission.load_test(config)
            say(f"{config.run_name}: executing {runtime.display_path(output)}")
            execute.run_notebook(name, output, parameters | extra, {}, stopped)
        except InputError as error:  # there is no test set
            say(f"{config.run_name}: notebook 06 is skipped: {error}")
        except execute.NotebookError as error:
            errors[runtime.display_path(output)] = str(error)
    return errors


def reason_to_skip(jobs: list[Job], finished: list[Path]) -> str:
    """Why a run cannot be evaluated yet; "" if it can."""
    if unfinished := [str(job.config.fold) for job in jobs if job.folder not in finished]:
        return f"not finished: fold {', '.join(unfinished)}"
    if len(finished) < 2 and jobs[0].config.preset in QUICK:  # notebook 03 would train a second one
        return "they need a second fold"
    return ""
