#!/bin/sh
# Starts nginx in the background with the configuration that nginx_conf.py writes for "$@".
set -eu
here=$(dirname "$(readlink -f "$0")")
folder=$(mktemp -d "${TMPDIR:-/tmp}/ois-nginx-XXXXXX")
python3 "$here/nginx_conf.py" --folder "$folder" "$@" > "$folder/nginx.conf"
nginx -e stderr -c "$folder/nginx.conf"
