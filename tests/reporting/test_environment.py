import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from utils.machine import apex_amp, runtime
from utils.reporting import environment, machine


def by_name():
    return {check.name: check for check in environment.checks()}


def test_everything_that_the_tests_have_works():
    checks = by_name()
    assert {name for name, check in checks.items() if check.status == "broken"} == set()
    for name in ("torch", "transformers", "madgrad", "MiniLM", "lit-nlp", "papermill"):
        assert checks[name].status == "works", checks[name]
    assert checks["torch"].finding == torch.__version__
    assert all(check.remedy for check in checks.values() if check.status != "works")
    table = machine.checks_table(list(checks.values())).to_html()
    assert torch.__version__ in table
    assert "✓" in table


@pytest.mark.parametrize(
    ("fault", "name", "status", "words"),
    [
        ("absent", "madgrad", "broken", "not installed"),
        ("absent", "lit-nlp", "absent", "not installed"),
        ("at odds", "madgrad", "broken", "cannot be imported (numpy.core is gone)"),
        ("at odds", "lit-nlp", "absent", "cannot be imported (numpy.core is gone)"),
    ],
)
def test_a_package_that_does_not_work(fault, name, status, words, monkeypatch):
    if fault == "absent":
        missing = environment.importlib.metadata.PackageNotFoundError
        version = environment.importlib.metadata.version

        def lacking(package):
            if package == name:
                raise missing(package)
            return version(package)

        monkeypatch.setattr(environment.importlib.metadata, "version", lacking)
    else:
        module = environment._MODULES.get(name, name)
        monkeypatch.setitem(sys.modules, module, None)

        def fail(wanted):
            if wanted == module:
                raise AttributeError("numpy.core is gone\nand more")

        monkeypatch.setattr(environment.importlib, "import_module", fail)
    check = by_name()[name]
    assert check.status == status
    assert words in check.finding
    assert check.remedy == "run: bash setup.sh"


@pytest.mark.parametrize(
    "name",
    ["torch", *(pytest.param(n, marks=pytest.mark.full) for n in ("transformers", "accelerate", "psutil"))],
)
def test_the_report_names_a_package_that_it_needs_itself(name):
    code = (
        f"import sys; sys.modules[{name!r}] = None; import utils.__main__ as cli; cli.main(['environment'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=runtime.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
    assert "broken" in row
    assert "cannot be imported" in row
    assert row.endswith("-> run: bash setup.sh")
    assert "  Python        works" in done.stdout


@pytest.mark.parametrize(
    ("device", "nvidia_smi", "cuda", "status", "words"),
    [
        ("cpu", False, None, "absent", "choose a GPU"),
        ("cpu", True, None, "absent", "without TORCH_INDEX_URL"),
        ("cpu", True, "13.0", "absent", "driver may be older than CUDA 13.0"),
        ("cuda", True, "12.8", "broken", "torch cannot compute on it.*choose another GPU, such as a T4"),
        ("cuda works", True, "12.8", "works", "^$"),
    ],
)
def test_gpus_and_why_there_is_none(device, nvidia_smi, cuda, status, words, monkeypatch):
    monkeypatch.setattr(runtime, "device", lambda: torch.device(device.split()[0]))
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: nvidia_smi if name == "nvidia-smi" else which(name))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(name="Tesla P100", total_memory=16 * 2**30, major=6, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: properties)
    ones = torch.ones

    def on_the_gpu(*shape, device=None):
        if device == "cuda:0" and status == "broken":
            raise RuntimeError(
                "CUDA error: no kernel image is available for execution on the device\nCompile with"
            )
        return ones(*shape)

    monkeypatch.setattr(torch, "ones", on_the_gpu)
    (check,) = environment._gpus()
    assert check.status == status
    assert re.search(words, check.remedy)
    if device.startswith("cuda"):
        assert check.finding == "Tesla P100, 16 GiB, compute capability 6.0, CUDA 12.8"


def test_apex_is_wanted_only_where_there_is_cuda(monkeypatch):
    assert by_name()["Apex"].remedy == "none needed: Apex is for CUDA"
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    assert environment._apex().remedy == "run: bash setup.sh --apex"
    monkeypatch.setattr(apex_amp, "apex_problem", lambda: None)
    origin = {"url": "file:///cache/apex-e13873debc46-torch2.11.0-cu12.8-cp313-sm7.5/apex-0.1-cp313.whl"}
    distribution = SimpleNamespace(version="0.1", read_text=lambda name: json.dumps(origin))
    monkeypatch.setattr(apex_amp.importlib.metadata, "distribution", lambda name: distribution)
    assert environment._apex().finding == "0.1, commit e13873debc46, built for torch2.11.0-cu12.8-cp313-sm7.5"
    origin["url"] = "file:///somewhere/apex"
    assert environment._apex().finding == "0.1, of unknown commit"
    monkeypatch.undo()
    wrong = apex_amp.Problem("the installed package 'apex' is not NVIDIA's", "remove it")
    monkeypatch.setattr(apex_amp, "apex_problem", lambda: wrong)
    assert environment._apex().remedy == "remove it"
    assert environment._apex().finding.endswith("not NVIDIA's")


def test_a_full_disk_and_a_broken_encoder_are_reported(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    monkeypatch.setattr("utils.machine.encoders.MINILM_SHA256", "0")
    checks = by_name()
    remedy = "free 2 GiB or more on the disk of ."
    assert checks["disk"] == environment.Check("disk", "1 GiB free", "broken", remedy)
    assert "not the official ones; reinstall it" in checks["MiniLM"].remedy


def test_the_report_ends_with_a_status_that_setup_can_use():
    """As setup.sh calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "utils", "environment"],
        cwd=runtime.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"  memory        works   {psutil.virtual_memory().total / 2**30:.0f} GiB" in done.stdout
    assert "  precision     " in done.stdout


def test_a_broken_environment_is_no_success(monkeypatch, capsys):
    broken = environment.Check("torch", "not installed", "broken", "run: bash setup.sh")
    monkeypatch.setattr(environment, "checks", lambda: [broken])
    assert environment.main() == 1
    assert "torch         broken  not installed -> run: bash setup.sh" in capsys.readouterr().out
