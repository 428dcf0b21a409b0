#!/usr/bin/env bash
# Training speed on this machine's GPU, as one table, within ten minutes: bash scripts/gpu_day.sh
# In a minute on a CPU, to see that it works: bash scripts/gpu_day.sh --smoke
# It needs the package installed, and no network (benchmarks/gpu_day.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m benchmarks.gpu_day "$@"
