"""torch.compile and CUDA graphs on a GPU: the same predictions, how fast they are, what compiling costs."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.contestants import Setting
from benchmarks.gpu import fast, folds
from benchmarks.gpu.correct import BOUNDS, difference
from benchmarks.gpu.record import Check, Record
from benchmarks.gpu.workers import CPU, Worker, WorkerError

TURNS = 2
#: Encoder, batch size and length, and what compile=auto means there.
SHAPES = [("base", 4, 128, "graphs"), ("large", 32, 256, "on")]


def run(record: Record, folder: Path) -> None:
    """The part "compile": correct first, then speeds, each shape in turns with and without compiling."""
    dry_run, data = record.options.dry_run, fast.long_texts(folder / "texts.csv")
    kinds = ["on"] if dry_run else ["graphs", "on"]
    chosen = folds.settings("tiny", dry_run) | {"precision": "fp32"}
    with Worker(folds.__name__, **CPU) as cpu, Worker(folds.__name__) as worker:
        cpu.submit(folds.train, folder, run="reference", **chosen)
        for kind in kinds:
            worker.submit(folds.train, folder, run=kind, **chosen, compile=kind)
        reference = cpu.result(record.seconds_left())
        for kind in kinds:
            name = f"tiny trained with compile={kind} predicts as on the CPU"
            record.check(name, partial(predicts_alike, worker, reference, record))
    shapes = [("tiny", 2, 16, "on")] if dry_run else SHAPES
    for encoder, batch, length, kind in shapes:
        name = common.best_precision() if not dry_run else "fp32"
        measure(record, Setting(str(data), encoder, batch, length, name, rows=1024), kind)


def predicts_alike(worker: Worker, reference: Path, record: Record) -> list[Check]:
    folder = worker.result(record.seconds_left())
    return [
        Check(f"difference of {weights} predictions", difference(folder, reference, weights), BOUNDS["fp32"])
        for weights in ("last", "averaged")
    ]


def measure(record: Record, setting: Setting, kind: str) -> None:
    """Our loop without and with compiling, in processes of their own, in turns."""
    steps = 2 if record.options.dry_run else 60 if kind == "graphs" else 20
    entry = {"setting": fast.label(setting), "kind": kind, "runs": {"off": [], kind: []}, "error": ""}
    common.find_encoder(setting.encoder)
    with Worker(fast.__name__) as plain, Worker(fast.__name__) as compiled:
        for _ in range(TURNS):
            for worker, wanted in ((plain, "off"), (compiled, kind)):
                asked = replace(setting, compile=wanted)
                try:
                    run = worker.call(fast.one, "ours", asked, steps, seconds=record.seconds_left() + 5)
                except WorkerError as error:
                    entry["error"] = str(error)
                    break
                entry["runs"][wanted].append(run)
            record.update(speeds=[*earlier(record, entry), entry])
            if entry["error"]:
                break
    print(f"{entry['setting']}: {describe(entry)}", flush=True)


def earlier(record: Record, entry: dict) -> list[dict]:
    """The speeds of the other settings."""
    return [other for other in record.content.get("speeds", []) if other["setting"] != entry["setting"]]


def describe(entry: dict) -> str:
    """What compiling was worth in a setting, and what it cost."""
    plain, compiled = entry["runs"]["off"], entry["runs"][entry["kind"]]
    if not plain or not compiled:
        return f"compile={entry['kind']} was not measured: {entry['error']}"
    rates = [max(run["tokens_per_second"] for run in runs) for runs in (plain, compiled)]
    first = [runs[0]["to_first_step"] for runs in (plain, compiled)]
    text = f"compile={entry['kind']} {rates[1]:,.0f} tokens/s, off {rates[0]:,.0f}, "
    text += f"{rates[1] / rates[0]:.2f} times as fast; {first[1]:.0f} s to the first step, off {first[0]:.0f}"
    return text + (f" (then: {entry['error']})" if entry["error"] else "")
