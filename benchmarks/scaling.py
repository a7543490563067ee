"""What a batch of folds costs: measured on this machine through papermill, as batches run, and a model of the rest.

    python -m benchmarks.scaling [--data DATA] [--rows 80] [--repeats 2]

A fold takes a + b·rows + c·rows·epochs + d·epochs seconds: a to start papermill, a kernel, imports and the plots; b to
read and tokenise; c to train on and evaluate; d to save at each evaluation. Four runs of two sizes tell the four, alone
with all cores and with as many folds at once as batches would run. The model is then held against a batch that it has
not seen. DATA is what ``Config.data`` takes. On CPUs: a GPU runs one fold at a time. Writes benchmarks/scaling.json.
"""

import argparse
import json
import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.common import told
from utils import execute, grid, runtime
from utils.config import Config, InputError
from utils.data import Texts, add_folds, load_table
from utils.model import build_model

RESULTS = Path(__file__).with_suffix(".json")


def seconds_of(config: dict, at_once: int, folder: str) -> float:
    """Wall seconds a fold, of ``at_once`` folds that run side by side as a batch has them."""
    fold = ",".join(map(str, range(at_once)))
    folds = {"fold": fold, "n_folds": max(5, at_once)}
    jobs = grid.expand({**config, **folds, "output_dir": tempfile.mkdtemp(dir=folder)})
    slots = execute.slots([job.config for job in jobs], at_once)
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        errors = list(pool.map(execute.train, jobs, slots))
    assert not any(errors), errors
    return time.perf_counter() - began


def fit(points: list[tuple[int, float, float]]) -> list[float]:
    """a, b, c, d from (rows, epochs, seconds), by least squares; none below zero."""
    rows, epochs, seconds = np.array(points).T
    return nnls(np.stack([np.ones_like(rows), rows, rows * epochs, epochs], axis=1), seconds)[0].tolist()


def predict(costs: list[float], rows: int, epochs: float) -> float:
    return float(np.dot(costs, [1, rows, rows * epochs, epochs]))


def batch_seconds(costs: list[float], rows: int, epochs: float, folds: int, at_once: int) -> float:
    """Wall seconds of a batch: rounds of as many folds as run at once."""
    return math.ceil(folds / at_once) * predict(costs, rows, epochs)


def tokenizing(config: Config) -> dict:
    """Texts tokenised a second, and tokens of a text."""
    table = add_folds(load_table(config), config)
    _, tokenizer = build_model(config)
    began = time.perf_counter()
    texts = Texts.of(table, tokenizer, config)
    seconds = time.perf_counter() - began
    tokens = sum(texts.lengths)
    return {"texts_per_second": len(table) / seconds, "tokens_per_text": tokens / len(table)}


def report(found: dict) -> None:
    """The tables of docs/scaling.md."""
    cores = found["cores"]
    print("| folds at once | a, start | b, a row | c, a row and epoch | d, an epoch | a fold of CLEAR, 4 epochs |")
    print("|---|---|---|---|---|---|")
    for at_once in sorted({1, cores}):
        a, b, c, d = costs = list(found[f"{at_once} at once"].values())
        fold = predict(costs, 3773, 4)
        print(f"| {at_once} | {a:.1f} s | {1e3 * b:.1f} ms | {1e3 * c:.1f} ms | {d:.1f} s | {fold / 60:.0f} min |")
    costs = list(found[f"{cores} at once"].values())
    print("\n| folds × seeds | 1 machine | 2 | 5 | 15 | machine-hours |\n|---|---|---|---|---|---|")
    for seeds in (1, 3, 10):
        walls = [batch_seconds(costs, 3773, 4, 5 * seeds, machines * cores) / 3600 for machines in (1, 2, 5, 15)]
        hours = 5 * seeds / cores * predict(costs, 3773, 4) / 3600
        print(f"| 5 × {seeds} | {' | '.join(f'{wall:.1f} h' for wall in walls)} | {hours:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="print the tables from scaling.json, measure nothing")
    asked = parser.parse_args()
    if asked.report:
        report(json.loads(RESULTS.read_text()))
        return
    if torch.cuda.is_available():
        raise InputError("this measures folds that share a CPU's cores; set CUDA_VISIBLE_DEVICES to nothing.")
    preset = {"preset": "demo" if asked.data == "sample" else "clear", "data": asked.data, "averaging": "none"}
    whole = Config.make(**preset)
    cores = execute.joblib.cpu_count(only_physical_cores=True)
    sizes = [(asked.rows, 1), (asked.rows, 3), (2 * asked.rows, 1), (2 * asked.rows, 3)]
    found = {
        "machine": runtime.device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "cores": cores,
        "tokenizing": tokenizing(whole),
    }
    with tempfile.TemporaryDirectory() as folder:
        for at_once in sorted({1, cores}):
            points = []
            for _ in range(asked.repeats):
                for rows, epochs in sizes:
                    config = {**preset, "max_rows": rows, "epochs": epochs}
                    points.append((rows, epochs, seconds_of(config, at_once, folder)))
                    print(f"{at_once} at once, {rows} rows, {epochs} epochs: {points[-1][-1]:.1f} s", flush=True)
            found[f"{at_once} at once"] = dict(zip("abcd", fit(points), strict=True))
        costs = list(found[f"{cores} at once"].values())
        unseen = {"max_rows": round(1.5 * asked.rows), "epochs": 2}
        began = time.perf_counter()
        for _ in range(2):
            seconds_of({**preset, **unseen}, cores, folder)
        measured = time.perf_counter() - began
    expected = batch_seconds(costs, unseen["max_rows"], unseen["epochs"], 2 * cores, cores)
    found["unseen"] = {**unseen, "folds": 2 * cores, "measured": measured, "predicted": expected}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    report(found)


if __name__ == "__main__":
    told(main)
