"""Predicting with a trained fold: torch in float32 and bfloat16, ONNX in float32 and in eight bits.

    python -m benchmarks.predicting output/clear/fold-0/averaged [--texts 500] [--repeats 3]

Texts a second and peak memory on the fold's own held-out rows, seconds from the start of the process to the
first prediction, the metric, and how far predictions are from torch's in float32. Each runs in a process of
its own, in turns; medians count. Writes benchmarks/predicting-cpu.json.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import psutil
import torch

from benchmarks import common, measure
from utils.config import Config, InputError
from utils.release.onnx import export, load
from utils.runs import artifacts
from utils.runs.portable import task_of
from utils.tasks import add_folds, load_table, make_task
from utils.training.predict import predict_examples

#: Which folder each reads, and whether torch computes in bfloat16.
WAYS = {
    "torch fp32": ("weights", False),
    "torch bf16": ("weights", True),
    "ONNX fp32": ("onnx", False),
    "ONNX int8": ("int8", False),
}


def held_out_rows(fold: Path, texts: int) -> tuple[Config, pd.DataFrame, pd.DataFrame]:
    """The fold's Config, the whole table, and the first of the rows that it held out."""
    config = Config.make(**artifacts.read_metadata(fold)["config"])
    table = add_folds(load_table(config), config)
    return config, table, table[table["fold"] == config.fold].head(texts).reset_index(drop=True)


def predict(folder: Path, rows_file: Path, bf16: bool) -> dict:
    """Seconds to the first prediction and texts a second, peak memory in GiB, and the predictions.

    Args:
        rows_file: texts to predict, as JSON records.
    """
    rows = pd.read_json(rows_file, orient="records", dtype=False)
    model, tokenizer = load(folder)
    task = task_of(model.config)
    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with autocast:
        predict_examples(model, task, task.encode(rows.head(1), tokenizer), tokenizer)
        first = time.time() - psutil.Process().create_time()
        measure.reset_peak()
        start = time.perf_counter()
        predictions = predict_examples(model, task, task.encode(rows, tokenizer), tokenizer)
        seconds = time.perf_counter() - start
    speed = {"first_seconds": first, "texts_per_second": len(rows) / seconds}
    return {**speed, "peak_gib": measure.peak_memory(), "predictions": predictions.tolist()}


def main() -> None:
    arguments = read_command_line()
    if name := arguments.one:
        print(json.dumps(predict(arguments.folder, arguments.rows, WAYS[name][1])))
        return
    fold = arguments.folder.resolve().parent
    config, table, rows = held_out_rows(fold, arguments.texts)
    task = make_task(config, table, table[table["fold"] != config.fold])
    runs: dict[str, list[dict]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"weights": arguments.folder.resolve()}
        for name in ("onnx", "int8"):
            folders[name] = export(arguments.folder, Path(temporary) / name, int8=name == "int8")
        rows_file = Path(temporary) / "rows.json"
        rows[[config.id_column, *config.text_columns]].to_json(rows_file, orient="records")
        for turn in range(arguments.repeats):
            for name, (kind, _) in WAYS.items():
                options = ("--one", name, "--rows", rows_file)
                result = common.run_module("benchmarks.predicting", folders[kind], *options)
                if result is not None:
                    runs[name].append(result)
                    print(f"turn {turn + 1}, {name}: {result['texts_per_second']:.1f} texts/s", flush=True)
        sizes = {name: sum(path.stat().st_size for path in one.iterdir()) for name, one in folders.items()}
    common.write_result("predicting", summarize(task, rows, runs) | {"bytes": sizes, "texts": len(rows)})


def summarize(task, rows: pd.DataFrame, runs: dict[str, list[dict]]) -> dict:
    """The medians of each way, its metric, and the distance of its predictions from the first way's."""
    targets, ways = task.targets(rows), {}
    simplest = np.array(runs["torch fp32"][0]["predictions"])
    for name, results in runs.items():
        if not results:
            continue
        predictions = np.array(results[0]["predictions"])
        apart = task.comparable(predictions) - task.comparable(simplest)
        medians = ("first_seconds", "texts_per_second", "peak_gib")
        ways[name] = {one: median(result[one] for result in results) for one in medians}
        ways[name] |= {task.metric.name: task.score(targets, predictions)}
        ways[name] |= {"largest_difference": float(np.abs(apart).max()), "rms_difference": float(apart.std())}
    return {"ways": ways, "runs": {name: len(results) for name, results in runs.items()}}


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predicting", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "folder", type=Path, help="weights in their fold, such as output/clear/fold-0/averaged"
    )
    parser.add_argument("--texts", type=common.positive, default=500, help="how many held-out texts")
    parser.add_argument("--repeats", type=common.positive, default=3)
    parser.add_argument("--one", choices=[*WAYS], help="one of them, in this process")
    parser.add_argument("--rows", type=Path, help="the texts that it reads")
    arguments = parser.parse_args()
    if not arguments.one and not artifacts.is_fold(arguments.folder.resolve().parent):
        raise InputError(f"{arguments.folder} lies in no fold, whose held-out texts are read; name another.")
    return arguments


if __name__ == "__main__":
    common.run_main(main)
