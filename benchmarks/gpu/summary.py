"""What the GPU check found, a line per part; needs neither matplotlib nor IPython, unlike page.py."""

import json
import statistics
from pathlib import Path

from benchmarks.gpu.compiled import describe
from benchmarks.gpu.record import outcome
from benchmarks.gpu.waits import summarize

PARTS = ("correct", "fast", "waits", "compile", "apex", "tests")


def read(folder: Path) -> dict[str, dict]:
    """The results in ``folder`` by the names of their files, in the order of the page."""
    paths = [path for part in PARTS for path in sorted(folder.glob(f"gpu-{part}-*.json"))]
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def summary(folder: Path) -> str:
    """A line per part."""
    results = {result["part"]: result for result in read(folder).values()}
    return "\n".join(f"{part}: {part_summary(results.get(part))}" for part in PARTS)


def part_summary(result: dict | None) -> str:
    if result is None:
        return "left nothing"
    cut_off = "" if result["finished"] else f" (cut off after {result['seconds']:.0f} s)"
    summaries = {"fast": fast_summary, "waits": waits_summary, "compile": compile_summary}
    summaries["tests"] = tests_summary
    return summaries.get(result["part"], checks_summary)(result) + cut_off


def checks_summary(result: dict) -> str:
    if result.get("why"):
        return f"not run: {result['why']}"
    checks = result.get("checks", [])
    count = {word: sum(entry["passed"] is word for entry in checks) for word in (True, False, None)}
    text = f"{count[True]} passed, {count[False]} failed, {count[None]} skipped"
    return "; ".join([text, *(outcome(entry) for entry in checks if entry["passed"] is False)])


def fast_summary(result: dict) -> str:
    settings = result.get("settings", [])
    texts = []
    for setting in settings[:3]:
        ratios = (
            f"{ratio(setting, 'published') or '?'} published, {against_better(setting) or '?'} the others"
        )
        texts.append(f"{title(setting)}: {speed(setting, 'ours'):,.0f} tokens/s, {ratios}")
    whole = result.get("demo", {}).get("whole")
    texts += [f"the {result['demo']['preset']} fold {whole:.1f} s"] if whole else []
    return "; ".join(
        [f"{len(settings)} settings, {len(result.get('not_measured', []))} not measured", *texts]
    )


def compile_summary(result: dict) -> str:
    speeds = [f"{entry['setting']}: {describe(entry)}" for entry in result.get("speeds", [])]
    return "; ".join([checks_summary(result), *speeds])


def waits_summary(result: dict) -> str:
    cases = [f"{case}: {summarize(measured)}" for case, measured in result.get("cases", {}).items()]
    return "; ".join([*cases, *(f"{case} failed: {why}" for case, why in result.get("errors", {}).items())])


# --- speeds of a setting -----------------------------------------------------------------------------------


def median(setting: dict, name: str, key: str) -> float:
    """Of a contestant's runs in a setting; 0 if there is none."""
    values = [turn["runs"][name][key] for turn in setting["turns"] if turn["runs"][name]]
    return statistics.median(values) if values else 0.0


def speed(setting: dict, name: str) -> float:
    return median(setting, name, "tokens_per_second")


def ratio(setting: dict, name: str) -> str:
    """How many times as fast ours is as a contestant; empty if one of them is not measured."""
    ours, other = speed(setting, "ours"), speed(setting, name)
    return f"{ours / other:.2f} ×" if ours and other else ""


def against_better(setting: dict) -> str:
    """How many times as fast ours is as the better of Trainer and Lightning."""
    return ratio(setting, max(("trainer", "lightning"), key=lambda name: speed(setting, name)))


def title(setting: dict) -> str:
    return f"{setting['encoder']} {setting['batch']} × {setting['length']} {setting['precision']}"


def tests_summary(result: dict) -> str:
    if result.get("why", "cut off"):
        return f"not run: {result.get('why', 'cut off')}"
    failed = f", failed: {', '.join(result['failed'])}" if result["failed"] else ", none failed"
    return f"{' '.join(result['tests'])}: {result['passed']} passed, {result['skipped']} skipped{failed}"
