#!/bin/sh
# Runs nginx in front of several replicas. All clicks on an image go to the same replica, which then
# has the image's features.
#
#   OIS_REPLICAS          host names of the replicas, separated by spaces
#   OIS_TLS_CERTIFICATE,  PEM files; if set, ports 8000 and 8001 use TLS
#   OIS_TLS_KEY
#
# Port 8080 is plain HTTP on loopback, for this container's health check only.
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
