#!/usr/bin/env bash
# Run every check and measurement that needs a GPU: parity, kernels, engines, peers, serving, TensorRT.
# Each step has a time limit; no step takes more than five minutes, and all of them together take less
# than 25. Nothing is downloaded. *Not run on a GPU yet*; tests/benchmarks/gpu/test_run_gpu.py parses
# every command with its real parser.
#
#   benchmarks/run_gpu.sh [--dry-run] [RESULTS [STEP...]]     default: benchmarks/results/gpu, all steps
#
# With step names, only those steps run; the others are listed at the end. This makes it possible to use
# a machine that is available for ten minutes at a time. --dry-run prints the name, time limit and
# command of every step.
#
# PEERS=FOLDER benchmarks/run_gpu.sh measures peers from their clones in FOLDER, which must be named
# segnext, sam, hqsam and simpleclick (docs/benchmarks.md lists the repositories). Without PEERS,
# installed peers are measured.
#
# Needs Python 3.11 to 3.13 with `pip install -e '.[gpu,bench,kernels]' pytest hypothesis`, and a PyTorch
# with CUDA. TensorRT, trtexec, the embedded server and onnxruntime-gpu are used if they are installed. `session`
# and `serving` need NumPy 1.26 (`pip install -e '.[serve]'`), because the embedded server does not run
# under NumPy 2; otherwise they are skipped. If a step fails or takes too long, the next one runs. Read
# RESULTS/summary.txt first.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=""
[ "${1:-}" = --dry-run ] && { dry=1; shift; }
RESULTS="${1:-benchmarks/results/gpu}"
[ $# -gt 0 ] && shift
chosen=" $* "
PYTHON="${PYTHON:-python3}"
PEERS="${PEERS:-}"
[ -n "$dry" ] || RESULTS="$(mkdir -p "$RESULTS" && cd "$RESULTS" && pwd)" || exit 2
SCRATCH="${SCRATCH:-${TMPDIR:-/tmp}/ois-run-gpu}" # networks and engines: large, only for later steps
SUMMARY="$RESULTS/summary.txt"
CLONES=(segnext sam hqsam simpleclick) # names of the folders in $PEERS
MEASURED=network/ois_network/kernels/measured.json
OIS=("$PYTHON" -m ois_cli.main)
# Library versions other than CI's may raise warnings, which do not concern the GPU.
TESTS=("$PYTHON" -m pytest -q -p no:cacheprovider -W default)

names=" "
remaining=""
# wanted NAME: whether the step was requested. Called once per step.
wanted() {
  names+="$1 "
  [ "$chosen" = "  " ] || [[ "$chosen" == *" $1 "* ]]
}

note() { printf '%-12s %s\n' "$1" "$2" | tee -a "$SUMMARY"; }

# step NAME SECONDS COMMAND...   the output goes to RESULTS/NAME.log
step() {
  local name="$1" limit="$2" begin=$SECONDS state
  shift 2
  if ! wanted "$name"; then
    remaining+=" $name ($limit s)"
  elif [ -n "$dry" ]; then
    printf '%s\t%s\t%s\n' "$name" "$limit" "$(printf '%q ' "$@")"
  elif [ "$mode" = run ]; then
    timeout --kill-after=20 "$limit" "$@" > "$RESULTS/$name.log" 2>&1
    state=$?
    case $state in
      0) state=ok ;;
      124 | 137) state="stopped after $limit s" ;;
      *) state="failed ($state): $(tail -n 1 "$RESULTS/$name.log")" ;;
    esac
    note "$name" "$(printf '%4d s  %s' $((SECONDS - begin)) "$state")"
    [ "$state" = ok ]
  fi
}

# available WHAT TEST... -- NAME...   notes these steps as skipped if TEST fails, that is, if this
# machine has no WHAT. The last line that TEST prints is the reason.
available() {
  local what="$1" test=() name reason
  shift
  while [ "$1" != -- ]; do test+=("$1"); shift; done
  shift
  [ -n "$dry" ] || [ "$mode" = names ] || reason="$("${test[@]}" 2>&1)" && return 0
  reason="$(tail -n 1 <<< "$reason")"
  for name in "$@"; do
    wanted "$name" && note "$name" "skipped: no $what here${reason:+: $reason}"
  done
  return 1
}

# Whether a module is installed. It is not imported, because some crash without a driver.
module() { "$PYTHON" -c 'import sys, importlib.util as u; sys.exit(not any(map(u.find_spec, sys.argv[1:])))' "$@"; }
cuda_provider() { "$PYTHON" -c 'import sys, onnxruntime as o; sys.exit("CUDAExecutionProvider" not in o.get_available_providers())'; }
# It may be installed but unable to start: under NumPy 2, or if /dev/shm is too small.
embedded_server() {
  "$PYTHON" -c '
import sys
from ois_client.contract.errors import EngineError
from ois_runtime.embedded.checks import check_machine
from ois_runtime.embedded.staging import find_wheel
try:
    check_machine(find_wheel(), 2**26)  # as tests/gpu/test_serving.py needs
except EngineError as error:
    sys.exit(str(error))
'
}

contestants() { for name in "$@"; do printf '%s\n' -c "$name"; done; }

steps() {
  # 1. A GPU that PyTorch can use is required for everything below. The first `import torch` from a
  # cold disk takes most of a minute.
  if ! step gpu 120 "$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(), torch.cuda.get_device_capability()); torch.ones(8, device="cuda").sum().item()'; then
    echo "no usable GPU; see $RESULTS/gpu.log" >&2
    exit 2
  fi
  step doctor 20 "${OIS[@]}" doctor

  # 2. Parity before speed. The kernels' result decides what the engine runs in later steps.
  step parity 190 "${TESTS[@]}" tests/gpu/test_engine.py tests/gpu/test_kernels.py
  step kernels 140 "${OIS[@]}" bench kernels --output "$RESULTS/kernels.json" --write
  [ "$mode" = run ] && wanted kernels && cp "$MEASURED" "$RESULTS/measured.json"

  # 3. The engine: the GPU's ceilings, CUDA graphs, a user's call, and a cold start.
  step ceilings 45 "${OIS[@]}" bench ceilings --output "$RESULTS/gpu-ceilings.json"
  step engine 100 "${OIS[@]}" bench gpu-engine --network vitb --size 1022x1022 \
    --precision fp16 --output "$RESULTS/gpu-engine-vitb.json"
  step click 45 "${OIS[@]}" segment export/ois_export/photos/coffee.jpg --point 300,200 \
    --backend torch --device cuda --precision fp16 --repeat 20 --json
  step cold-start 75 "${OIS[@]}" bench cold-start local:cuda --repeats 2 \
    --output "$RESULTS/cold-start.json"

  # 4. SPC and SAT: OIS and its peers on the same GPU, the peers in eager fp32. Only the square picture,
  # for which the targets are set.
  local peers=(ois-torch-cuda segnext-sax2 sam-vitb hqsam-vitb hqsam-vitb-hoisted simpleclick-448-flip)
  local checkouts=() peer
  for peer in "${CLONES[@]}"; do
    [ -n "$PEERS" ] && [ -d "$PEERS/$peer" ] && checkouts+=(--checkout "$peer=$PEERS/$peer")
  done
  local given
  mapfile -t given < <(contestants "${peers[@]}")
  step spc 95 "${OIS[@]}" bench spc --device cuda --size 1024x1024 "${given[@]}" "${checkouts[@]}" \
    --output "$RESULTS/spc-vitb-gpu.json"
  step sat 100 "${OIS[@]}" bench sat --device cuda --size 1024x1024 --batch 16 --full-below 20 \
    "${given[@]}" "${checkouts[@]}" --output "$RESULTS/sat-vitb-gpu.json"

  # 5. Through a server, and with many users.
  if available "usable embedded server" embedded_server -- session serving; then
    step session 60 "${OIS[@]}" bench spc --device cuda --size 1024x1024 --clicks 100 \
      -c ois-server-cuda --output "$RESULTS/session-vitb-gpu.json"
    step serving 50 "${TESTS[@]}" tests/gpu/test_serving.py
  fi
  step load 35 "${OIS[@]}" bench load local:cuda --only cold --only warm --only fast --fast 1,8 \
    --seconds 5 --output "$RESULTS/load-gpu.json"

  # 6. TensorRT on ViT-B with random weights: built and compared with its graphs; then the layers of a
  # click, which decide whether a plugin is needed.
  local graphs="$SCRATCH/vitb-tensorrt"
  if available TensorRT module tensorrt tensorrt_bindings -- graphs-trt build-trt spc-trt profile-trt plugin; then
    step graphs-trt 60 "${OIS[@]}" bench prepare "$graphs" --network vitb \
      --target tensorrt --precision fp16
    step build-trt 200 "${OIS[@]}" build "$graphs" --shape 1022x1022 --objects 1 --objects 8 \
      --output "$SCRATCH/plans"
    step spc-trt 30 "${OIS[@]}" bench spc --device cuda --size 1024x1024 -c ois-tensorrt \
      --checkpoint "$graphs/checkpoint.safetensors" --plans "$SCRATCH/plans" \
      --output "$RESULTS/spc-tensorrt-gpu.json"
    if available trtexec command -v trtexec -- profile-trt plugin; then
      step profile-trt 70 "${OIS[@]}" bench layers "$graphs" "$RESULTS" \
        --shape 1022x1022 --objects 1
      step plugin 5 "${OIS[@]}" bench plugin "$RESULTS/trtexec-profile.json" \
        "$RESULTS/kernels.json" --layer-info "$RESULTS/trtexec-layers.json" --objects 1 --keys 5329
    fi
  fi
  if available onnxruntime-gpu cuda_provider -- onnxruntime; then
    step onnxruntime 40 "${TESTS[@]}" tests/gpu/test_onnxruntime.py
  fi

  # 7. All results on one page.
  step report 15 "${OIS[@]}" bench report "$RESULTS" --no-measure --output "$RESULTS/report.html" \
    --markdown "$RESULTS/report.md"
}

# Absolute paths, because some steps start processes in other folders.
PYTHONPATH="$(printf "$PWD/%s:" client runtime network export benchmarks cli)${PYTHONPATH:-}"
# With OIS_GPU_REQUIRED a skipped GPU test counts as failed (tests/conftest.py), so "ok" means it ran.
export PYTHONUNBUFFERED=1 OIS_GPU_REQUIRED=1 PYTHONPATH

mode=names
if [ -n "$dry" ]; then
  steps
  exit
fi
all="$chosen"
chosen=" - " # collects the names of all steps and runs none
steps
for name in $all; do
  [[ "$names" == *" $name "* ]] || { echo "got the step $name; expected some of$names" >&2; exit 2; }
done
chosen="$all" names=" " remaining="" mode=run

mkdir -p "$SCRATCH"
note "" "$(date -u +%FT%TZ) steps:${chosen/#  /all}"
# In a checkout that is not installed, register what pip would: the name, and the address `local:`.
if ! "$PYTHON" -c 'from importlib.metadata import version; version("ois-deploy")' 2> /dev/null; then
  site="$SCRATCH/site"
  mkdir -p "$site/ois_deploy-0.dist-info"
  printf 'Metadata-Version: 2.1\nName: ois-deploy\nVersion: 0\n' > "$site/ois_deploy-0.dist-info/METADATA"
  printf '[ois_client.transports]\nlocal = ois_runtime.engines.local:open_transport\n' \
    > "$site/ois_deploy-0.dist-info/entry_points.txt"
  export PYTHONPATH="$site:$PYTHONPATH"
fi
# Restore the kernels' table of an earlier run, of which this machine may have only RESULTS.
wanted kernels || { [ -s "$RESULTS/measured.json" ] && cp "$RESULTS/measured.json" "$MEASURED"; }
if [ -n "$PEERS" ]; then
  [ -d "$PEERS" ] || note "" "PEERS is $PEERS, but there is no such folder"
  for folder in "$PEERS"/*/; do
    [ -d "$folder" ] || continue
    folder="$(basename "$folder")"
    [[ " ${CLONES[*]} " == *" $folder "* ]] ||
      note "" "not used: $folder in PEERS; its folders must be named ${CLONES[*]}"
  done
fi
nvidia-smi > "$RESULTS/nvidia-smi.txt" 2>&1 || true
steps
[ -z "$remaining" ] || note "" "not requested:$remaining"
echo "done in $SECONDS s: $SUMMARY"
