#!/usr/bin/env bash
# Everything that this repository wants to know from a GPU, in one go: checks, parity, kernels,
# engines, peers. Each step has a limit, all of them together are under 25 minutes; nothing is
# downloaded. *Not run on a GPU yet.*
#
#   benchmarks/run_gpu.sh [RESULTS]      default: benchmarks/results/gpu
#
# Needs Python 3.11 or 3.12 with `pip install -e '.[export,bench,kernels,dev]'` and a PyTorch with
# CUDA. What else is found is used: peers' clones in $PEERS (segnext, simpleclick, sam-hq, ...: see
# docs/benchmarks.md), TensorRT with its builder. A step that fails or takes too long is noted and
# the next one runs: read RESULTS/summary.txt first.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RESULTS="$(mkdir -p "${1:-benchmarks/results/gpu}" && cd "${1:-benchmarks/results/gpu}" && pwd)"
PYTHON="${PYTHON:-python3}"
PEERS="${PEERS:-}"
SUMMARY="$RESULTS/summary.txt"
ois() { "$PYTHON" -m ois_cli.main "$@"; }
: > "$SUMMARY"

# step NAME SECONDS COMMAND...   the output goes to RESULTS/NAME.log
step() {
  local name="$1" limit="$2" begin=$SECONDS state
  shift 2
  timeout --kill-after=20 "$limit" "$@" > "$RESULTS/$name.log" 2>&1
  state=$?
  case $state in
    0) state=ok ;;
    124 | 137) state="stopped after $limit s" ;;
    *) state="failed ($state): $(tail -n 1 "$RESULTS/$name.log")" ;;
  esac
  printf '%-12s %4d s  %s\n' "$name" $((SECONDS - begin)) "$state" | tee -a "$SUMMARY"
}

export PYTHONUNBUFFERED=1 PYTHONPATH="client:runtime:network:export:benchmarks:cli${PYTHONPATH:+:$PYTHONPATH}"
export -f ois
export PYTHON

# 1. Is there a GPU that PyTorch can use? Without one nothing below means anything.
step gpu 40 "$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(), torch.cuda.get_device_capability()); torch.ones(8, device="cuda").sum().item()'
if ! grep -q '^gpu .* ok$' "$SUMMARY"; then
  echo "no usable GPU; see $RESULTS/gpu.log" >&2
  exit 2
fi
nvidia-smi > "$RESULTS/nvidia-smi.txt" 2>&1 || true

# 2. Parity before speed: kernels against float64 and SDPA, the engine against the network.
step doctor 40 bash -c 'ois doctor'
step kernels 150 "$PYTHON" -m ois_benchmarks.kernels --output "$RESULTS/kernels.json"
step kernels-on 80 "$PYTHON" -m ois_benchmarks.kernels --objects 1 4 16 --write
step parity 120 "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_runtime_torch_engine.py tests/test_runtime_torch_graphs.py
step click 40 bash -c 'ois segment export/ois_export/photos/coffee.jpg --point 300,200 --backend torch --device cuda --precision f16 --repeat 20 --json'
step cold-start 60 "$PYTHON" -m ois_benchmarks.cold_start local:cuda --output "$RESULTS/cold-start.json"

# 3. TensorRT, where its builder is: the shipped network in fp16, inspected and compared.
if "$PYTHON" -c 'import tensorrt; tensorrt.Builder' 2> /dev/null; then
  step export-trt 120 bash -c 'ois export "$0" --target tensorrt --precision fp16 --output "$1"' \
    models/ois-tiny.safetensors "$RESULTS/tiny-tensorrt"
  step build-trt 200 bash -c 'ois build "$0" --output "$1"' "$RESULTS/tiny-tensorrt" "$RESULTS/plans"
else
  echo "tensorrt     not installed: skipped" | tee -a "$SUMMARY"
fi

# 4. SPC and SAT: OIS and its peers on the same card, fp32 eager and each one's best.
contestants=(-c ois-torch-unrewritten -c ois-torch -c ois-torch-cuda)
checkouts=()
for peer in sam hqsam segnext simpleclick; do
  contestants+=(-c "$peer")
  [ -n "$PEERS" ] && [ -d "$PEERS/$peer" ] && checkouts+=(--checkout "$peer=$PEERS/$peer")
done
step spc 300 bash -c 'ois bench spc "$@"' ois --device cuda "${contestants[@]}" "${checkouts[@]}" \
  --output "$RESULTS/spc-vitb-gpu.json"
step sat 240 bash -c 'ois bench sat "$@"' ois --device cuda "${contestants[@]}" "${checkouts[@]}" \
  --output "$RESULTS/sat-vitb-gpu.json"

# 5. Many users at once, in process: the engine's own share of what a server would do.
step load 60 bash -c 'ois bench load local:cuda --seconds 5 --output "$0"' "$RESULTS/load-gpu.json"
step report 40 bash -c 'ois bench report "$0"/*.json --no-measure --output "$0/report.html" --markdown "$0/report.md"' "$RESULTS"
echo "done in $SECONDS s: $SUMMARY"
