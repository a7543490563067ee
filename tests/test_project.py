"""The project's own rules: pinned versions, the order of imports, the size of modules, the README."""

import ast
import re

import pytest
from packaging.requirements import Requirement

import utils
from utils.config import PRESETS
from utils.machine import runtime

ROOT = runtime.ROOT


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_has_one_exact_version_within_its_range():
    pins = {pin.name.lower().replace("_", "-"): pin.specifier for pin in requirements("constraints.txt")}
    assert not any("+" in str(specifier) for specifier in pins.values()), "a local version"
    suffixes = ("", "-lit", "-dev", "-ray", "-trainers", "-export")
    named = [line for suffix in suffixes for line in requirements(f"requirements{suffix}.txt")]
    by_setup = {"apex", "lit-nlp"}
    assert not {requirement.name for requirement in named} & by_setup, "setup.sh installs these separately"
    for requirement in named:
        (pin,) = pins[requirement.name.lower()]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement.name


#: A wing imports from itself and from the wings before it.
WINGS = [
    "machine",
    "data",
    "modeling",
    "tasks",
    "training",
    "runs",
    "release",
    "trainers",
    "explain",
    "reporting",
    "lit",
    "batch",
]
#: The most lines of a wing, docstrings included, with room for what is planned.
BUDGETS = {
    "machine": 1220,
    "data": 1610,
    "modeling": 1550,
    "tasks": 2945,
    "training": 1420,
    "runs": 2690,
    "release": 730,
    "trainers": 300,
    "explain": 530,
    "reporting": 3260,
    "lit": 2260,
    "batch": 1440,
}
#: What a newcomer reads to understand the suite, in half an hour.
CORE = [
    "tasks/base",
    "tasks/regression",
    "modeling/model",
    "modeling/pooling",
    "modeling/losses",
    "training/loop",
    "training/optim",
    "training/averaging",
]


def modules():
    """Every module of utils/ and batch/ with its wing, which is "" for those directly in utils/."""
    for path in [*(ROOT / "utils").rglob("*.py"), *(ROOT / "batch").glob("*.py")]:
        parts = path.relative_to(ROOT).parts
        yield path, "batch" if parts[0] == "batch" else parts[1] if len(parts) > 2 else ""


def imported_modules(path):
    """The names of the modules that a module imports at its top level."""
    for node in ast.parse(path.read_text()).body:
        yield from imported_names(node)


def imported_names(node):
    if isinstance(node, ast.ImportFrom):
        yield node.module or ""
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)


def test_imports_run_one_way():
    for path, wing in modules():
        if not wing:
            continue
        allowed = {"config", "fields", "errors", "presets", *WINGS[: WINGS.index(wing) + 1]}
        for module in imported_modules(path):
            parts = module.split(".")
            if parts[0] == "utils" and len(parts) > 1:
                assert parts[1] in allowed, f"{path}: {module}"
            assert parts[0] != "batch" or wing == "batch", f"{path}: {module}"


def test_modeling_can_be_copied_into_a_saved_folder():
    """Its modules import each other as ``from .name import X`` and nothing else of this project."""
    for path in (ROOT / "utils" / "modeling").glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, path
                assert node.module, path
                assert (path.parent / f"{node.module}.py").is_file(), path
            else:
                packages = {name.split(".")[0] for name in imported_names(node)}
                assert not packages & {"utils", "batch"}, path


def test_the_core_never_imports_lit():
    for path, wing in modules():
        if wing not in ("lit", "batch"):
            assert not any(module.startswith("lit_nlp") for module in imported_modules(path)), path


def test_the_package_stays_thin():
    lines = {path: len(path.read_text().splitlines()) for path, _ in modules()}
    assert max(lines.values()) <= 250, max(lines, key=lines.get)
    for wing, budget in BUDGETS.items():
        assert sum(lines[path] for path, other in modules() if other == wing) <= budget, wing
    assert sum(lines[ROOT / "utils" / f"{name}.py"] for name in CORE) < 1100


def test_the_face_has_what_most_people_need():
    for name in utils.__all__:
        assert callable(getattr(utils, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        utils.nothing  # noqa: B018


def test_no_notebook_imports_what_runs_many_folds():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert not re.search(r"(from|import) batch\b", path.read_text()), path


def test_the_page_of_presets_names_every_one_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "presets.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(PRESETS)
