"""What a batch of folds costs: measured on this machine as batches run, through papermill, and extrapolated.

    python -m benchmarks.scaling [--data DATA] [--rows 80] [--repeats 2]

A fold takes a + b·rows + c·rows·epochs + d·epochs seconds: a to start papermill, a kernel, imports and the
plots; b to read and tokenise; c to train on and evaluate; d to save at each evaluation. Four runs, of two
sizes and two numbers of epochs, determine the four costs: alone with all cores, and with as many folds at
once as ``python -m batch`` would run. The model is then checked against a batch that it was not fitted to.
DATA is a value for ``Config.data``. Only on CPUs, since a GPU runs one fold at a time. Writes
benchmarks/scaling.json.
"""

import argparse
import json
import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import torch
from scipy.optimize import nnls

from batch import execute, grid
from benchmarks.common import run_main
from utils.config import Config, InputError
from utils.machine import runtime
from utils.tasks import add_folds, load_table, make_task
from utils.training.build import build_model

RESULTS = Path(__file__).with_suffix(".json")
CLEAR = (3773, 4)  # rows, and epochs of its preset


def seconds_of_folds(parameters: dict, at_once: int, folder: str) -> float:
    """Wall seconds of ``at_once`` folds that run side by side, as in a batch."""
    folds = {"fold": ",".join(map(str, range(at_once))), "n_folds": max(5, at_once)}
    jobs = grid.expand({**parameters, **folds, "output_dir": tempfile.mkdtemp(dir=folder)})
    shares = execute.slots([job.config for job in jobs], at_once)
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(execute.train, jobs, shares))  # a list, so that an error is raised
    return time.perf_counter() - began


def fit(points: list[tuple[int, float, float]]) -> list[float]:
    """a, b, c, d from (rows, epochs, seconds), by least squares; none below zero."""
    rows, epochs, seconds = np.array(points).T
    return nnls(np.stack([np.ones_like(rows), rows, rows * epochs, epochs], axis=1), seconds)[0].tolist()


def predict(costs: list[float], rows: int, epochs: float) -> float:
    """Wall seconds of a fold."""
    return float(np.dot(costs, [1, rows, rows * epochs, epochs]))


def batch_seconds(costs: list[float], rows: int, epochs: float, folds: int, at_once: int) -> float:
    """Wall seconds of a batch: rounds of as many folds as run at once."""
    return math.ceil(folds / at_once) * predict(costs, rows, epochs)


def tokenizing(config: Config) -> dict:
    """Texts tokenised per second, and tokens per text."""
    table = add_folds(load_table(config), config)
    task, (_, tokenizer) = make_task(config, table), build_model(config)
    began = time.perf_counter()
    examples = task.encode(table, tokenizer)
    seconds = time.perf_counter() - began
    tokens = sum(examples.lengths)
    return {"texts_per_second": len(table) / seconds, "tokens_per_text": tokens / len(table)}


def report(measurements: dict) -> None:
    """Print the tables of docs/scaling.md."""
    cores = measurements["cores"]
    print("| folds at once | a, start | b, per row | c, per row and epoch | d, per epoch | CLEAR, 4 epochs |")
    print("|---|---|---|---|---|---|")
    for at_once in sorted({1, cores}):
        a, b, c, d = costs = list(measurements[f"{at_once} at once"].values())
        cells = [f"{a:.1f} s", f"{1e3 * b:.1f} ms", f"{1e3 * c:.1f} ms", f"{d:.1f} s"]
        print(f"| {at_once} | {' | '.join(cells)} | {predict(costs, *CLEAR) / 60:.0f} min |")
    costs = list(measurements[f"{cores} at once"].values())
    print("\n| folds × seeds | 1 machine | 2 | 5 | 15 | machine-hours |\n|---|---|---|---|---|---|")
    for seeds in (1, 3, 10):
        folds = 5 * seeds
        walls = [batch_seconds(costs, *CLEAR, folds, machines * cores) / 3600 for machines in (1, 2, 5, 15)]
        hours = folds / cores * predict(costs, *CLEAR) / 3600
        print(f"| 5 × {seeds} | {' | '.join(f'{wall:.1f} h' for wall in walls)} | {hours:.1f} |")


def main() -> None:
    arguments = read_command_line()
    if arguments.report:
        report(json.loads(RESULTS.read_text()))
        return
    if torch.cuda.is_available():
        raise InputError("this measures folds that share a CPU's cores; set CUDA_VISIBLE_DEVICES to nothing.")
    preset = "demo" if arguments.data == "sample" else "clear"
    parameters = {"preset": preset, "data": arguments.data, "averaging": "none"}
    measurements = measure_costs(parameters, arguments.rows, arguments.repeats)
    RESULTS.write_text(json.dumps(measurements, indent=2) + "\n")
    report(measurements)


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--report", action="store_true", help="print the tables of scaling.json, measure nothing"
    )
    return parser.parse_args()


def measure_costs(parameters: dict, rows: int, repeats: int) -> dict:
    """Tokenizing, the four costs for each number of folds at once, and the check of the model."""
    cores = joblib.cpu_count(only_physical_cores=True)
    measurements = {
        "machine": runtime.device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "cores": cores,
        "tokenizing": tokenizing(Config.make(**parameters)),
    }
    with tempfile.TemporaryDirectory() as folder:
        for at_once in sorted({1, cores}):
            points = measure_points(parameters, rows, repeats, at_once, folder)
            measurements[f"{at_once} at once"] = dict(zip("abcd", fit(points), strict=True))
        costs = list(measurements[f"{cores} at once"].values())
        measurements["unseen"] = check_prediction(costs, parameters, round(1.5 * rows), cores, folder)
    return measurements


def measure_points(
    parameters: dict, rows: int, repeats: int, at_once: int, folder: str
) -> list[tuple[int, int, float]]:
    """(rows, epochs, wall seconds) of each run."""
    points = []
    for _ in range(repeats):
        for max_rows, epochs in ((rows, 1), (rows, 3), (2 * rows, 1), (2 * rows, 3)):
            settings = {**parameters, "max_rows": max_rows, "epochs": epochs}
            seconds = seconds_of_folds(settings, at_once, folder)
            points.append((max_rows, epochs, seconds))
            print(f"{at_once} at once, {max_rows} rows, {epochs} epochs: {seconds:.1f} s", flush=True)
    return points


def check_prediction(costs: list[float], parameters: dict, rows: int, cores: int, folder: str) -> dict:
    """Two rounds of folds of a size that the costs were not fitted to: measured and predicted seconds."""
    settings = {"max_rows": rows, "epochs": 2}
    began = time.perf_counter()
    for _ in range(2):
        seconds_of_folds({**parameters, **settings}, cores, folder)
    measured = time.perf_counter() - began
    predicted = batch_seconds(costs, rows, settings["epochs"], 2 * cores, cores)
    return {**settings, "folds": 2 * cores, "measured": measured, "predicted": predicted}


if __name__ == "__main__":
    run_main(main)
