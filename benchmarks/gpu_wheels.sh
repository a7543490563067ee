#!/usr/bin/env bash
# Fill a folder with what benchmarks/gpu_check.sh needs on a machine without a network: the packages that an
# image with PyTorch, transformers, accelerate, pandas and scikit-learn lacks, as pure Python wheels, and MiniLM
# in float16, which halves it. Run it where the suite is set up (bash setup.sh) and there is a network.
#
#   bash benchmarks/gpu_wheels.sh [FOLDER]      (output/gpu-wheels)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/output/gpu-wheels} python=${PYTHON:-$root/.venv/bin/python}
# What the suite imports and such an image may lack; what it has of these is left alone there.
packages=(kagglehub kagglesdk protobuf requests urllib3 idna certifi charset-normalizer)
packages+=(nltk ml_collections portpicker termcolor)  # LIT's
source_packages=(madgrad rouge_score)                 # have no wheel, and no compiled code

fail() { printf 'gpu_wheels: %s\n' "$*" >&2; exit 1; }

"$python" -c 'import torch, transformers' 2>/dev/null \
  || fail "$python has no torch and transformers; set up the suite first: bash setup.sh"
mkdir -p "$folder"
pin() { grep "^$1==" "$root/constraints.txt" || fail "constraints.txt does not pin $1."; }
for package in "${packages[@]}"; do
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform any --dest "$folder" "$(pin "$package")"
done
for package in "${source_packages[@]}"; do
  "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" "$(pin "$package")"
done
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --platform any \
  --dest "$folder" "$(grep -om1 'lit-nlp==[0-9.]*' "$root/setup.sh")"
# Without LIT's web pages, which are nine tenths of it: the check calls its models, and serves nothing.
"$python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

(wheel,) = Path(sys.argv[1]).glob("lit_nlp-*.whl")
with ZipFile(wheel) as whole:
    files = {name: whole.read(name) for name in whole.namelist() if not name.startswith("lit_nlp/client/")}
(record,) = [name for name in files if name.endswith("/RECORD")]
lines = files[record].decode().splitlines(keepends=True)
files[record] = "".join(line for line in lines if not line.startswith("lit_nlp/client/")).encode()
with ZipFile(wheel, "w", ZIP_DEFLATED) as small:
    for name, content in files.items():
        small.writestr(name, content)
PYTHON
compiled=$(find "$folder" -name '*.whl' ! -name '*-none-any.whl')
[ -z "$compiled" ] || fail "$compiled is compiled, and may not fit the other machine; empty $folder."
cd "$root"
"$python" - "$folder/minilm" <<'PYTHON'
import sys

from transformers import AutoModel, AutoTokenizer

from utils.machine.encoders import encoder_source

source, folder = encoder_source("minilm"), sys.argv[1]
AutoModel.from_pretrained(source).half().save_pretrained(folder)
AutoTokenizer.from_pretrained(source).save_pretrained(folder)
PYTHON
size=$(du -sm "$folder" | cut -f1)
echo "$folder: $size MiB"
[ "$size" -le 64 ] || fail "$folder takes more than 64 MiB; empty it and run this again."
