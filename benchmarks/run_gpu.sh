#!/usr/bin/env bash
# Run every check and measurement that needs a GPU, the most telling first: a smoke test, ceilings, the
# engine, a profile, kernels, compiled halves, OIS and peers (SPC, SAT), then parity, serving, TensorRT.
# Each step has a time limit; no step takes more than five minutes. The steps up to `sat` fit into one
# command of ten minutes. Nothing is downloaded. *Not run on a GPU yet*;
# tests/benchmarks/gpu/test_run_gpu.py parses every command with its real parser and rehearses the
# script on a CPU.
#
#   benchmarks/run_gpu.sh [--dry-run] [RESULTS [STEP...]]     default: benchmarks/results/gpu, all steps
#
# With step names, only those steps run; the others are listed at the end. `first` stands for the steps
# up to `sat`. This makes it possible to use a machine that is available for fifteen minutes:
#
#   benchmarks/run_gpu.sh RESULTS first && benchmarks/run_gpu.sh RESULTS gpu parity
#
# --dry-run prints the name, time limit and command of every step. After each step RESULTS/results.tar.gz
# has everything so far, so that a run that is cut short loses one step.
#
# CARRIED=FOLDER (default: artefacts/gpu, which git ignores) has what benchmarks/prepare_gpu.sh put there
# for a machine without a network: wheels, which are installed into $SCRATCH, and clones of peers.
# PEERS=FOLDER are clones elsewhere; they must be named segnext, sam, hqsam and simpleclick
# (docs/benchmarks.md lists the repositories). Without clones, installed peers are measured.
#
# Needs Python 3.11 to 3.13 and a PyTorch with CUDA, and either an installed `pip install -e
# '.[gpu,bench,kernels]' pytest hypothesis` or $CARRIED. TensorRT, trtexec, the embedded server and
# onnxruntime-gpu are used if they are installed. `session` and `serving` need NumPy 1.26 (`pip install -e
# '.[serve]'`), because the embedded server does not run under NumPy 2; otherwise they are skipped. If a
# step fails or takes too long, the next one runs. Read RESULTS/summary.txt first.
#
# DEVICE, NETWORK or CHECKPOINT, SIZE, OBJECTS, PICTURE, CONTESTANTS and WRITE change what is measured; the
# rehearsal sets them. PATIENCE multiplies all time limits, for slow machines.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry=""
[ "${1:-}" = --dry-run ] && { dry=1; shift; }
RESULTS="${1:-benchmarks/results/gpu}"
[ $# -gt 0 ] && shift
chosen=" $* "
PYTHON="${PYTHON:-python3}"
CARRIED="${CARRIED:-$PWD/artefacts/gpu}"
PEERS="${PEERS:-}"
[ -n "$PEERS" ] || { [ -d "$CARRIED/peers" ] && PEERS="$CARRIED/peers"; }
DEVICE="${DEVICE:-cuda}" NETWORK="${NETWORK:-vitb}" CHECKPOINT="${CHECKPOINT:-}" SIZE="${SIZE:-1022x1022}" # network pixels
PICTURE="${PICTURE:-1024x1024}"
PATIENCE="${PATIENCE:-1}" OBJECTS="${OBJECTS:-1 8 32}"
# OIS and its peers, in fp32 as they ship and in their fastest form.
CONTESTANTS="${CONTESTANTS:-ois-torch-cuda segnext-sax2 segnext-sax2-fp16 hqsam-vitb-hoisted \
  hqsam-vitb-hoisted-fp16 hqsam-vitb sam-vitb sam-vitb-fp16 simpleclick-448-flip simpleclick-448-flip-fp16}"
WRITE="${WRITE---write}" # whether the kernels' times decide what the engine runs
[ -n "$dry" ] || RESULTS="$(mkdir -p "$RESULTS" && cd "$RESULTS" && pwd)" || exit 2
SCRATCH="${SCRATCH:-${TMPDIR:-/tmp}/ois-run-gpu}" # networks and engines: large, only for later steps
SUMMARY="$RESULTS/summary.txt"
CLONES=(segnext sam hqsam simpleclick) # names of the folders in $PEERS
MEASURED=network/ois_network/kernels/measured.json
OIS=("$PYTHON" -m ois_cli.main)
# Library versions other than CI's may raise warnings, which do not concern the GPU.
TESTS=("$PYTHON" -m pytest -q -p no:cacheprovider -W default)

# What a first command of ten minutes runs.
FIRST=(gpu ceilings engine profile kernels engine-kernels compiled spc sat)

names=" "
remaining=""
# wanted NAME: whether the step was requested. Called once per step.
wanted() {
  names+="$1 "
  [ "$chosen" = "  " ] || [[ "$chosen" == *" $1 "* ]]
}

note() { printf '%-14s %s\n' "$1" "$2" | tee -a "$SUMMARY"; }

# One file with all results so far, replaced at once. tar ends with 1 if the folder changed meanwhile, as
# it does when tar makes its own file there.
pack() {
  tar -C "$RESULTS" --warning=no-file-changed --exclude='./results.tar.gz*' \
    -czf "$RESULTS/results.tar.gz.part" . || [ $? = 1 ] &&
    mv "$RESULTS/results.tar.gz.part" "$RESULTS/results.tar.gz"
}

# step NAME SECONDS COMMAND...   the output goes to RESULTS/NAME.log
step() {
  local name="$1" limit="$2" begin=$SECONDS state
  shift 2
  if ! wanted "$name"; then
    remaining+=" $name ($limit s)"
  elif [ -n "$dry" ]; then
    printf '%s\t%s\t%s\n' "$name" "$limit" "$(printf '%q ' "$@")"
  elif [ "$mode" = run ]; then
    timeout --kill-after=20 $((limit * PATIENCE)) "$@" > "$RESULTS/$name.log" 2>&1
    state=$?
    case $state in
      0) state=ok ;;
      124 | 137) state="stopped after $limit s" ;;
      *) state="failed ($state): $(tail -n 1 "$RESULTS/$name.log")" ;;
    esac
    note "$name" "$(printf '%4d s  %s' $((SECONDS - begin)) "$state")"
    pack
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
  if ! step gpu 120 "$PYTHON" -c "import torch; device = torch.device('$DEVICE'); print(torch.__version__, device, torch.cuda.is_available() and torch.cuda.get_device_name()); torch.ones(8, device=device).sum().item()"; then
    echo "no usable GPU; see $RESULTS/gpu.log" >&2
    exit 2
  fi

  # 2. The engine: the GPU's ceilings, CUDA graphs, and what a click consists of. Opening the engine
  # measures the kernels for itself; `kernels` measures them thoroughly and decides what runs later.
  step ceilings 45 "${OIS[@]}" bench ceilings --output "$RESULTS/gpu-ceilings.json"
  local network=(--network "$NETWORK")
  [ -z "$CHECKPOINT" ] || network=(--checkpoint "$CHECKPOINT")
  local half=("${network[@]}" --size "$SIZE" --precision fp16)
  local engine=(bench gpu-engine "${half[@]}")
  local count
  for count in $OBJECTS; do engine+=(--objects "$count"); done
  step engine 80 "${OIS[@]}" "${engine[@]}" --output "$RESULTS/gpu-engine-vitb.json"
  step profile 40 "${OIS[@]}" bench gpu-profile "${half[@]}" --output "$RESULTS/profile.json"
  step kernels 80 "${OIS[@]}" bench kernels --objects 1 --objects 8 --objects 32 \
    --output "$RESULTS/kernels.json" ${WRITE:+"$WRITE"}
  [ "$mode" = run ] && [ -n "$WRITE" ] && wanted kernels && cp "$MEASURED" "$RESULTS/measured.json"
  step engine-kernels 40 "${OIS[@]}" "${engine[@]}" --output "$RESULTS/gpu-engine-kernels.json"
  step compiled 120 "${OIS[@]}" bench gpu-compiled "${half[@]}" --output "$RESULTS/compiled.json"

  # 3. SPC and SAT: OIS and its peers on the same GPU. Only the square picture, for which the targets
  # are set.
  local checkouts=() peer
  for peer in "${CLONES[@]}"; do
    [ -n "$PEERS" ] && [ -d "$PEERS/$peer" ] && checkouts+=(--checkout "$peer=$PEERS/$peer")
  done
  local given picture=("${network[@]}" --device "$DEVICE" --size "$PICTURE")
  mapfile -t given < <(contestants $CONTESTANTS)
  step spc 110 "${OIS[@]}" bench spc "${picture[@]}" "${given[@]}" "${checkouts[@]}" \
    --output "$RESULTS/spc-vitb-gpu.json"
  step sat 80 "${OIS[@]}" bench sat "${picture[@]}" --batch 16 --full-below 20 \
    "${given[@]}" "${checkouts[@]}" --output "$RESULTS/sat-vitb-gpu.json"

  # 4. Parity, and what is installed.
  step parity 190 "${TESTS[@]}" tests/gpu/test_engine.py tests/gpu/test_kernels.py
  # Without it the base install is incomplete, which is an error of `ois doctor`.
  if available tritonclient module tritonclient -- doctor; then
    step doctor 20 "${OIS[@]}" doctor
  fi
  step click 45 "${OIS[@]}" segment export/ois_export/photos/coffee.jpg --point 300,200 \
    --backend torch --device "$DEVICE" --precision fp16 --repeat 20 --json
  step cold-start 75 "${OIS[@]}" bench cold-start local:cuda --repeats 2 \
    --output "$RESULTS/cold-start.json"

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

  # 7. All results on one page. Without Matplotlib, make it elsewhere with the same command.
  if available Matplotlib module matplotlib -- report; then
    step report 15 "${OIS[@]}" bench report "$RESULTS" --no-measure --output "$RESULTS/report.html" \
      --markdown "$RESULTS/report.md"
  fi
}

# Absolute paths, because some steps start processes in other folders.
PYTHONPATH="$(printf "$PWD/%s:" client runtime network export benchmarks cli)${PYTHONPATH:-}"
# With OIS_GPU_REQUIRED a skipped GPU test counts as failed (tests/conftest.py), so "ok" means it ran.
export PYTHONUNBUFFERED=1 OIS_GPU_REQUIRED=1 PYTHONPATH

mode=names
[ -n "$dry" ] && [[ "$chosen" == *" first "* ]] && chosen="${chosen/ first / ${FIRST[*]} }"
if [ -n "$dry" ]; then
  steps
  exit
fi
[[ "$chosen" == *" first "* ]] && chosen="${chosen/ first / ${FIRST[*]} }"
all="$chosen"
chosen=" - " # collects the names of all steps and runs none
steps
for name in $all; do
  [[ "$names" == *" $name "* ]] || { echo "got the step $name; expected some of$names" >&2; exit 2; }
done
chosen="$all" names=" " remaining="" mode=run

mkdir -p "$SCRATCH"
note "" "$(date -u +%FT%TZ) steps:${chosen/#  /all}"
# What was carried to a machine without a network, unless it is installed there.
if [ -d "$CARRIED/wheels" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$SCRATCH/carried" \
    "$CARRIED"/wheels/*.whl > "$RESULTS/carried.log" 2>&1 || note "" "not installed: $CARRIED/wheels"
  # Last, so that the machine's own packages win.
  export PYTHONPATH="$PYTHONPATH:$SCRATCH/carried"
fi
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
pack
echo "done in $SECONDS s: $SUMMARY"
