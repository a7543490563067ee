"""The project's own rules: what is pinned, what imports what, what the README says."""

import ast
import re
import subprocess

import pytest
from packaging.requirements import Requirement

from utils import runtime
from utils.config import PRESETS

ROOT = runtime.ROOT


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_has_one_exact_version_within_its_range():
    pins = {pin.name.lower().replace("_", "-"): pin.specifier for pin in requirements("constraints.txt")}
    assert not any("+" in str(specifier) for specifier in pins.values()), "no local versions"
    for requirement in [*requirements("requirements.txt"), *requirements("requirements-dev.txt")]:
        (pin,) = pins[requirement.name.lower()]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement.name


# Colab's and Kaggle's images, as read in 2026; what is preinstalled there must do.
COLAB = {"torch": "2.11.0", "transformers": "5.15.0", "accelerate": "1.14.0", "numpy": "2.1.3", "pandas": "2.2.3",
         "scikit-learn": "1.6.1"}  # fmt: skip
KAGGLE = {"torch": "2.10.0", "transformers": "5.0.0", "accelerate": "1.13.0", "numpy": "2.0.2", "pandas": "2.2.2",
          "scikit-learn": "1.6.1"}  # fmt: skip


@pytest.mark.parametrize("image", [COLAB, KAGGLE], ids=["colab", "kaggle"])
def test_the_images_of_colab_and_kaggle_are_within_the_ranges(image):
    ranges = {requirement.name: requirement.specifier for requirement in requirements("requirements.txt")}
    assert [name for name, version in image.items() if not ranges[name].contains(version)] == []


LAYERS = [["config"], ["runtime"], ["data", "model"], ["losses", "metrics", "optim", "precision", "averaging",
          "checkpoint"], ["train"], ["report"]]  # fmt: skip


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
    assert sum(len(path.read_text().splitlines()) for path in (ROOT / "utils").glob("*.py")) < 2000


def test_the_readme_names_every_preset_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(PRESETS)


def test_setup_refuses_an_unknown_option_in_one_sentence():
    done = subprocess.run(["bash", ROOT / "setup.sh", "--dve"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "setup: '--dve' is not an option; use --dev or none.\n"


def test_setup_says_when_there_is_no_python(tmp_path):
    copy = tmp_path / "setup.sh"
    copy.write_bytes((ROOT / "setup.sh").read_bytes())
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "python2-that-is-not-there"}
    done = subprocess.run(["bash", copy], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 was found" in done.stderr
    assert not (tmp_path / ".venv").exists()
