"""What a batch has come to: a table of its folds, their cross-validated scores, notebooks 03 and 06 on them."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.table import Table

from utils import checkpoint, execute, runtime, submission
from utils.config import Config, InputError
from utils.folds import QUICK, compare_weights, open_run, verdict
from utils.grid import Job
from utils.watch import BEFORE, FINISHED, Status, console, say


def summarize(statuses: list[Status], varied: list[str], path: Path) -> None:
    """Write a row a fold: the settings that vary, how it ended, its scores, its times; other folds' rows stay."""
    rows = []
    for status in statuses:
        job = status.job
        result = checkpoint.read_result(job.folder) if status.state in (FINISHED, BEFORE) else {}
        scores = {f"rmse_{kind}": values["rmse"] for kind, values in result.get("scores", {}).items()}
        rows.append({
            "run": job.config.run_name, "fold": job.config.fold, **{name: job.given[name] for name in varied},
            "state": status.state, "tries": status.tries, **scores, "seconds": result.get("seconds"),
            "samples_per_second": result.get("samples_per_second"), "error": status.error,
            "notebook": runtime.shown(job.notebook),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        earlier = pd.read_csv(path, dtype={"run": str})
        done = set(zip(table["run"], table["fold"], strict=True))
        kept = [key not in done for key in zip(earlier["run"], earlier["fold"], strict=True)]
        table = pd.concat([earlier[kept], table], ignore_index=True) if any(kept) else table
    checkpoint.write_table(path, table.sort_values(["run", "fold"], kind="stable"))


def show_scores(runs: list[Config]) -> dict[str, str]:
    """The cross-validated table: every text scored by the model that has not seen it. What went wrong, by run."""
    table = Table(
        "run", "folds", "last", "best epoch", "averaged", title="RMSE over all held-out texts (95 % interval)"
    )
    verdicts, errors = [], {}
    for config in runs:
        if not finished_folds(checkpoint.fold_folder(config).parent):
            continue
        try:
            with contextlib.redirect_stdout(None):  # what it says of missing folds, the table says
                run = open_run(config, at_least=0)
        except InputError as error:
            errors[f"scoring {config.run_name}"] = str(error)
            continue
        comparison = compare_weights(run)
        overall = comparison[comparison["fold"] == "all"].set_index("weights")
        cells = [f"{overall.loc[kind, 'rmse']:.4f} ({overall.loc[kind, 'low']:.3f} to {overall.loc[kind, 'high']:.3f})"
                 if kind in overall.index else "" for kind in checkpoint.KINDS]  # fmt: skip
        table.add_row(config.run_name, ", ".join(map(str, run.folders)), *cells)
        verdicts.append(f"{config.run_name}: {verdict(comparison).replace('**', '')}")
    if verdicts:
        with contextlib.suppress(OSError):  # the terminal has gone
            console.print(table)
    for sentence in verdicts:
        say(sentence)
    return errors


def finished_folds(run_folder: Path) -> list[Path]:
    found = []
    for folder in run_folder.glob("fold-*"):
        with contextlib.suppress(InputError):  # damaged; whoever trains it is told
            found += [folder] if checkpoint.is_finished(folder) else []
    return found


def evaluate(jobs: list[Job], stopped: Callable[[], bool]) -> dict[str, str]:
    """Execute notebooks 03 and 06 on the folds of one run, unless they have been since; what went wrong."""
    job, done = jobs[0], finished_folds(jobs[0].run_folder)
    unfinished = [str(each.config.fold) for each in jobs if each.folder not in done]
    if unfinished or (len(done) < 2 and job.config.preset in QUICK):  # of which 03 would train a second
        why = f"not finished: fold {', '.join(unfinished)}" if unfinished else "they want a second fold"
        say(f"{job.config.run_name}: notebooks 03 and 06 are left out ({why}).")
        return {}
    left_out = ("fold", "retrain", "time_limit_hours", "devices", "resume_from")
    parameters = {name: value for name, value in job.given.items() if name not in left_out}
    newest = max((folder / "result.json").stat().st_mtime for folder in done)
    errors = {}
    for name, more in (("03_swa_evaluation", {"low_precision": False}), ("06_submission", {})):
        output = job.run_folder / f"{name}.ipynb"
        if stopped() or (execute.is_executed(output) and output.stat().st_mtime > newest):
            continue
        if name == "06_submission":
            try:
                submission.load_test(job.config)
            except InputError as error:
                say(f"{job.config.run_name}: notebook 06 is left out: {error}")
                continue
        say(f"{job.config.run_name}: executing {runtime.shown(output)}")
        if error := execute.run_notebook(name, output, parameters | more, {}, stopped):
            errors[runtime.shown(output)] = error
    return errors
