#!/bin/sh
# Runs nginx on ports 8000 (HTTP), 8001 (gRPC) and 8002 (metrics), and `ois serve` behind it on
# loopback.
#
#   OIS_ENGINES      engine folder
#   OIS_TOKEN_FILE   file with the token that clients must send; or OIS_TOKEN, the token itself.
#                    Without either, whoever reaches the container's ports can click
#   OIS_CACHE_BYTES  memory of the feature store; default: what shared memory (--shm-size) allows
#   OIS_CACHE_SALT   "token" keeps the features of every token apart
#   OIS_CACHE_TTL_S  seconds without a click after which an image's features are dropped
#
# Arguments are passed to `ois serve`, which reads these variables. nginx is needed because the
# embedded server listens on loopback only: certain malformed requests crash its Triton release, and
# nginx rejects them.
set -eu
here=$(dirname "$(readlink -f "$0")")

"$here/start-nginx.sh" \
  --http-listen 0.0.0.0:8000 --http 127.0.0.1:18000 \
  --grpc-listen 0.0.0.0:8001 --grpc 127.0.0.1:18001 \
  --metrics-listen 0.0.0.0:8002 --metrics 127.0.0.1:18002

[ -n "${OIS_TOKEN_FILE:-}${OIS_TOKEN:-}" ] || set -- --no-token "$@"

# The container ends when the server ends or nginx no longer accepts connections.
exec python3 "$here/supervise.py" ois serve --engines "$OIS_ENGINES" \
  --http-port 18000 --grpc-port 18001 --metrics-port 18002 \
  "$@"
