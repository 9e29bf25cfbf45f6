#!/usr/bin/env bash
# Everything that needs a GPU: build for it with what the machine has, test, measure. Results go to the folder $1.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?gpu.sh: wanted a folder for the results}" && cd "$1" && pwd)
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
HATEBM_CUDA=1 TORCH_CUDA_ARCH_LIST=$architecture python -m pip install --no-build-isolation --no-deps -e .
python -m hatebm info | tee "$out/info.txt"
python -m pytest -q -rs tests/test_gpu.py | tee "$out/test_gpu.txt"
python benchmarks/step_gpu.py --csv "$out/step_gpu.csv" | tee "$out/step_gpu.txt"
