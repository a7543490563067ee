#!/usr/bin/env bash
# Everything that can be learnt from a GPU in eight minutes: is training correct on it, is it fast, what does it
# wait for. For a bare Linux machine with an NVIDIA GPU and a Python that has PyTorch with CUDA, transformers,
# accelerate, pandas and scikit-learn. Needs no network, no git and no .venv. docs/gpu_check.md explains it.
#
#   bash benchmarks/gpu_check.sh                all parts: correct fast waits compile apex tests
#   bash benchmarks/gpu_check.sh waits fast     these parts, in this order
#   bash benchmarks/gpu_check.sh --dry-run      tiny shapes on the CPU: shows that the script runs
#
# Environment variables:
#   OUT      where the results go: gpu-PART-DEVICE.json and gpu-check.log (output/gpu-check)
#   WHEELS   what gpu_wheels.sh has made: packages that this machine lacks, and MiniLM (output/gpu-wheels)
#   PYTHON   the interpreter that has PyTorch (python3)
#   SECONDS_IN_ALL   after which nothing is begun any more (470)
#
# Exit status: 0 if every check of the parts correct, compile and apex passed; 1 if one failed or was cut off; 2 if
# nothing could be run.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export OUT=${OUT:-$root/output/gpu-check} WHEELS=${WHEELS:-$root/output/gpu-wheels}
python=${PYTHON:-python3} budget=${SECONDS_IN_ALL:-470}

fail() { printf 'gpu_check: %s\n' "$*" >&2; exit 2; }

dry_run=false parts=()
for word in "$@"; do
  case "$word" in
    --dry-run) dry_run=true ;;
    correct | fast | waits | compile | apex | tests) parts+=("$word") ;;
    *) fail "unknown option '$word'; give --dry-run, or parts: correct, fast, waits, compile, apex, tests." ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(correct fast waits compile apex tests)

mkdir -p "$OUT" && [ -w "$OUT" ] || fail "$OUT cannot be written; set OUT to another folder."
OUT=$(cd "$OUT" && pwd)
log=$OUT/gpu-check.log
: >"$log"
scratch=$(mktemp -d) child=""
trap 'rm -rf "$scratch"' EXIT
# timeout passes the signal on to the part and all its processes, before their folder goes.
trap '[ -z "$child" ] || { kill "$child"; wait "$child"; } 2>/dev/null; exit 1' INT TERM HUP

# Only what this machine lacks, into a folder of its own: its torch, and whatever else it has, stay as they are.
install_wheels() {
  local wheel name missing=()
  for wheel in "$WHEELS"/*.whl; do
    [ -e "$wheel" ] || continue
    name=$(basename "$wheel" | cut -d- -f1)
    "$python" -c 'import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])' "$name" \
      2>/dev/null || missing+=("$wheel")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" \
    --disable-pip-version-check --root-user-action ignore "${missing[@]}" >>"$log" 2>&1 \
    || fail "the wheels in $WHEELS could not be installed ($(tail -n 1 "$log"))."
}

# How long a part may take; with what the others take it stays under eight minutes.
limit() {
  if $dry_run; then echo 300; return; fi
  case "$1" in
    correct) echo 150 ;;
    fast) echo 190 ;;
    waits) echo 60 ;;
    compile) echo 100 ;;
    apex) echo 40 ;;
    tests) echo 60 ;;
  esac
}

install_wheels
export PYTHONPATH=$root:$scratch/site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TMPDIR=$scratch
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
options=(--out "$OUT")
if $dry_run; then
  export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
  options+=(--dry-run)
fi
cd "$root" || fail "$root cannot be entered."
"$python" -c 'import benchmarks.gpu.__main__; from benchmarks.common import find_minilm; find_minilm()' \
  >>"$log" 2>&1 || fail "the check cannot start ($(tail -n 1 "$log")); make the wheels: benchmarks/gpu_wheels.sh."

status=0
for part in "${parts[@]}"; do
  left=$((budget - SECONDS)) most=$(limit "$part")
  if ! $dry_run && [ "$left" -lt "$most" ]; then most=$left; fi
  if [ "$most" -lt 15 ]; then
    echo "$part: not begun, since the time is over"
    [ "$part" != correct ] || status=1
    continue
  fi
  echo "--- $part (at most $most s)"
  # The part begins nothing new in its last seconds. What it has measured is in its file, whatever ends it.
  timeout -k 5 "$most" "$python" -m benchmarks.gpu "$part" "${options[@]}" --seconds $((most - 8)) 2>>"$log" &
  child=$!
  wait "$child"
  code=$?
  child=""
  [ $code -eq 0 ] || echo "$part ended with status $code after $SECONDS s in all"
  case "$part" in correct | compile | apex) [ $code -eq 0 ] || status=1 ;; esac
done

echo "--- summary, after $SECONDS s"
"$python" -m benchmarks.gpu summary "${options[@]}" 2>>"$log" || status=1
exit $status
