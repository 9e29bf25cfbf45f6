#!/usr/bin/env bash
# Everything that needs a GPU, in less than nine minutes: build for it with what the machine has, test, measure.
# Results go to the folder $1, or $OUT, or benchmarks/results: info, test log, tables, CSV and a summary.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-${OUT:-benchmarks/results}}
out=$(mkdir -p "$folder" && cd "$folder" && pwd)
summary=$out/gpu-summary.md
end=$((SECONDS + 520))

# Whatever a stage leaves behind stays, and the next one has its turn; the script fails if any of them did.
failed=0
stage() { # NAME LIMIT COMMAND...: at most LIMIT seconds, and never beyond the end
    local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS code=0
    shift 2
    timeout -s INT -k 10 $((left < limit ? (left > 1 ? left : 1) : limit)) "$@" > "$out/gpu-$name.txt" 2>&1 || code=$?
    echo "- $name: exit code $code after $((SECONDS - start)) s" | tee -a "$summary"
    tail -n 25 "$out/gpu-$name.txt"
    [ "$code" = 0 ] || failed=1
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$summary"
HATEBM_CUDA=1
TORCH_CUDA_ARCH_LIST=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
export HATEBM_CUDA TORCH_CUDA_ARCH_LIST
stage build 120 python -m pip install --no-build-isolation --no-deps -e .
stage info 30 python -m hatebm info
gpu_tests=$(grep -rl --include='test_*.py' 'pytest\.mark\.gpu' tests)  # the other files may need what is not here
stage tests 150 python -m pytest -q -rs -m gpu $gpu_tests
stage step 60 python benchmarks/step_gpu.py --csv "$out/gpu-step.csv"
plot=()
if python -c "import matplotlib" 2> "$out/gpu-plot.txt"; then plot=(--plot "$out/gpu-bench.png"); fi
stage bench-chain 240 python -m hatebm bench chain --device cuda --seconds 0.5 --csv "$out/gpu-bench-chain.csv" "${plot[@]}" --markdown
for table in step train; do
    stage bench-$table 60 python -m hatebm bench $table --device cuda --seconds 0.5 --csv "$out/gpu-bench-$table.csv" --markdown
done
stage bench-habits 120 python -m hatebm bench habits --device cuda --seconds 0.2 --csv "$out/gpu-bench-habits.csv" --markdown
grep -h -v -e '^\[' -e '^/' "$out"/gpu-bench-*.txt >> "$summary"  # the tables without the progress
exit $failed
