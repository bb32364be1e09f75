#!/bin/sh
# nginx on 8000 (HTTP), 8001 (gRPC) and 8002 (metrics); behind it, on loopback, `ois serve`.
#
#   OIS_ENGINES      engine folder
#   OIS_TOKEN_FILE   file with the token that clients must send; or OIS_TOKEN, the token itself
#   OIS_CACHE_BYTES  feature store; default: what the shared memory (--shm-size) has room for
#   OIS_CACHE_TTL_S  seconds after which an image that nobody clicks on is forgotten
#
# Arguments go to `ois serve`, which reads these variables itself. nginx is here because the embedded
# server listens on loopback only: it knows crashes that a hostile request can cause, and nginx
# lets none of those in.
set -eu
here=$(dirname "$(readlink -f "$0")")

"$here/start-nginx.sh" \
  --http-listen 0.0.0.0:8000 --http 127.0.0.1:18000 \
  --grpc-listen 0.0.0.0:8001 --grpc 127.0.0.1:18001 \
  --metrics-listen 0.0.0.0:8002 --metrics 127.0.0.1:18002

# The container ends with the server, or when nobody opens the door any more, and nginx with it.
exec python3 "$here/supervise.py" ois serve --engines "$OIS_ENGINES" \
  --http-port 18000 --grpc-port 18001 --metrics-port 18002 \
  "$@"
