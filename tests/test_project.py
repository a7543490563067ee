"""The project's own rules: what is pinned, what imports what, what the README says."""

import ast
import re

from packaging.requirements import Requirement

from utils.machine import runtime
from utils.config import PRESETS

ROOT = runtime.ROOT


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_has_one_exact_version_within_its_range():
    pins = {pin.name.lower().replace("_", "-"): pin.specifier for pin in requirements("constraints.txt")}
    assert not any("+" in str(specifier) for specifier in pins.values()), "no local versions"
    named = [r for name in ("", "-lit", "-dev", "-ray", "-bench") for r in requirements(f"requirements{name}.txt")]
    assert not {requirement.name for requirement in named} & {"apex", "lit-nlp"}, "setup.sh installs these, otherwise"
    for requirement in named:
        (pin,) = pins[requirement.name.lower()]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement.name


LAYERS = [["config", "madgrad"], ["runtime"], ["sources", "devices"], ["data", "model", "lowprecision"],
          ["predict", "losses", "metrics", "optim"],
          ["apex_amp", "averaging", "checkpoint", "state"], ["precision"],
          ["train", "environment"], ["trial", "resume", "faults"], ["results"], ["fold"], ["folds"],
          ["landscape", "submission", "report", "explain", "server"],
          ["report_runs", "report_rates", "report_words", "interpret"], ["lit_components"], ["serve"],
          ["keeper", "grid", "mirror"], ["execute", "watch", "kaggle_kernels"], ["cluster", "summary"],
          ["engines"], ["batch"]]  # fmt: skip


def test_imports_run_one_way():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for path in sorted((ROOT / "utils").glob("*.py")):
        if path.stem == "__init__":
            continue
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("utils"):
                names = [alias.name for alias in node.names] if node.module == "utils" else [node.module[6:]]
                imported |= set(names)
        assert all(level[name] < level[path.stem] for name in imported), (path.stem, imported)


def test_the_package_stays_thin():
    """A ceiling for each module and for all, docstrings included."""
    lines = {path.stem: len(path.read_text().splitlines()) for path in (ROOT / "utils").glob("*.py")}
    assert max(lines.values()) < 300, lines
    assert sum(lines.values()) < 7000


def test_the_readme_names_every_preset_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(PRESETS)
