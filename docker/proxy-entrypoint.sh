#!/bin/sh
# nginx before several replicas: an image's clicks go to the replica that has its features.
#
#   OIS_REPLICAS          host names of the replicas, separated by blanks
#   OIS_TLS_CERTIFICATE,  PEM files; then 8000 and 8001 speak TLS
#   OIS_TLS_KEY
#
# Port 8080 is for the health check of this container alone: plain HTTP, on loopback.
set -eu
here=$(dirname "$(readlink -f "$0")")

set --
for replica in $OIS_REPLICAS; do
  set -- "$@" --http "$replica:8000" --grpc "$replica:8001"
done
if [ -n "${OIS_TLS_CERTIFICATE:-}" ]; then
  set -- "$@" --certificate "$OIS_TLS_CERTIFICATE" --key "$OIS_TLS_KEY"
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/ois-nginx-XXXXXX")
python3 "$here/nginx_conf.py" --folder "$folder" \
  --http-listen 0.0.0.0:8000 --grpc-listen 0.0.0.0:8001 --local-listen 127.0.0.1:8080 \
  --access-log /dev/stdout \
  "$@" > "$folder/nginx.conf"
exec nginx -e stderr -c "$folder/nginx.conf" -g 'daemon off;'
