#!/usr/bin/env bash
# Fill a folder with what benchmarks/run_gpu.sh needs on a GPU machine without a network: wheels for its
# Python, and the code of peers. It stays below 64 MiB, and git ignores the default folder. Needs pip and
# an index; clones that you have are copied, without pictures, weights and history.
#
#   benchmarks/prepare_gpu.sh [CLONES [FOLDER]]      default: no clones, artefacts/gpu
#
# CLONES has your clones of peers, in folders named segnext and simpleclick (docs/benchmarks.md lists the
# repositories and commits). PYTHON_VERSION is the GPU machine's Python (default 3.12). PyTorch, Triton and
# NumPy are not included: they are the machine's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CLONES="${1:-}"
FOLDER="${2:-artefacts/gpu}"
PYTHON="${PYTHON:-python3}"
PYTHON_VERSION="${PYTHON_VERSION:-3.12}"
LIMIT_MIB=64
# The base install, then what tests and benchmarks import; pip adds what these need. OpenCV (60 MB) is
# left out: peers import it but call nothing of it when they segment, so a stand-in that refuses to be used
# is enough (ois_benchmarks/contestants/standins.py). Nothing that runs there exports or asks a server, so
# there is no ONNX and no tritonclient, and no Matplotlib: the report is made later, from the results.
WHEELS=(
  'aiohttp>=3.10,<4' 'pillow>=10.3,<14' 'rich>=13.7,<16' 'typer>=0.12,<1' 'urllib3>=2.0.7,<3'
  'safetensors>=0.5,<1' 'scipy>=1.12,<2' 'pyelftools>=0.30,<1' 'pytest>=8.3,<10' 'hypothesis>=6.100,<7'
)
PEERS=('segment-anything==1.0' 'segment-anything-hq==0.3') # alone, because they name PyTorch

rm -rf "$FOLDER/wheels" "$FOLDER/peers"
mkdir -p "$FOLDER/wheels" "$FOLDER/peers"
download() {
  "$PYTHON" -m pip download --quiet --only-binary=:all: --dest "$FOLDER/wheels" \
    --python-version "$PYTHON_VERSION" --implementation cp --abi "cp${PYTHON_VERSION//./}" --abi abi3 \
    --abi none --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any "$@"
}
download "${WHEELS[@]}"
download --no-deps "${PEERS[@]}"
rm -f "$FOLDER"/wheels/numpy-*.whl # the machine's own

# Code only: *.py, configs and licences, nothing above 1 MB.
for clone in ${CLONES:+"$CLONES"/*/}; do
  name="$(basename "$clone")"
  case "$name" in
    segnext | simpleclick | sam | hqsam) ;;
    *) echo "not used: $name; folders of clones must be named segnext, simpleclick, sam or hqsam" >&2
       continue ;;
  esac
  (cd "$clone" && find . -path ./.git -prune -o -type f -size -1024k \
    \( -name '*.py' -o -name '*.y*ml' -o -name '*.toml' -o -name '*.cfg' -o -iname 'LICENSE*' \) -print0 |
    tar --null --files-from=- -cf -) | (mkdir -p "$FOLDER/peers/$name" && tar -C "$FOLDER/peers/$name" -xf -)
  # The row of a peer names its commit, for which a copy has no history.
  git -C "$clone" rev-parse HEAD > "$FOLDER/peers/$name/COMMIT" 2> /dev/null || rm -f "$FOLDER/peers/$name/COMMIT"
done

kib="$(du -sk "$FOLDER" | cut -f 1)"
echo "$FOLDER: $((kib / 1024)) MiB, $(find "$FOLDER/wheels" -name '*.whl' | wc -l) wheels," \
  "peers: $(find "$FOLDER/peers" -mindepth 1 -maxdepth 1 -printf '%f ')"
if [ "$kib" -gt $((LIMIT_MIB * 1024)) ]; then
  echo "error: that is more than $LIMIT_MIB MiB; carry fewer wheels" >&2
  exit 1
fi
