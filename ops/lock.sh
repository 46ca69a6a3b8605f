#!/usr/bin/env bash
# Resolve pyproject.toml anew and write the lock file. Run it after changing a dependency; commit the result.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3.11}" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet 'pip==26.3'
"${pip[@]}" install --quiet '.[cpu]' --group dev hatchling editables
{
  echo "# Python 3.11, Linux x86_64, CPU. Written by ops/lock.sh; installed with --no-deps by ops/setup.sh."
  "${pip[@]}" freeze | grep -vE '^(loopwright|torchvision|torchaudio|torchcodec|triton)( |=)'
} > ops/requirements-cpu.lock
wc -l ops/requirements-cpu.lock
