#!/usr/bin/env bash
# Builds the target `cpu` of the unchanged Dockerfile and tests it as compose.yaml runs it: first
# one server, then two behind the proxy. Works on a Debian machine without Docker: debootstrap makes
# the base image, buildah builds and podman runs.
#
#   sudo apt-get install debootstrap buildah podman crun iproute2
#   sudo docker/verify_cpu_target.sh
#
# Uses apt's Debian mirror. Needs 10 GB in WORK, and a long download for torch.
#   WORK         folder for the images, reused by later runs; default /var/tmp/ois-verify
#   BUILD_FLAGS  options for buildah, for example to use this machine's pip configuration:
#                "--volume /etc/pip.conf:/etc/pip.conf:ro"
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$here")
WORK=${WORK:-/var/tmp/ois-verify}
BUILD_FLAGS=${BUILD_FLAGS:-}
IMAGE=localhost/ois-deploy:cpu
NAME=ois-verify-$$

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run as root: debootstrap and buildah need it"
for tool in debootstrap buildah podman crun unshare ip; do
  command -v "$tool" >/dev/null \
    || fail "$tool is missing: apt-get install debootstrap buildah podman crun iproute2"
done

# crun does not work with a mix of cgroup versions, so mount version 2 in a private mount namespace.
if [ -z "${OIS_VERIFY_INSIDE:-}" ]; then
  OIS_VERIFY_INSIDE=1 exec unshare --mount --propagation private -- "$0" "$@"
fi
if [ "$(stat --file-system --format=%T /sys/fs/cgroup)" != cgroup2fs ]; then
  umount --recursive /sys/fs/cgroup 2>/dev/null || true
  mount -t cgroup2 none /sys/fs/cgroup
fi

storage=(--root "$WORK/images" --runroot "$WORK/run")
mkdir -p "$WORK"
tag=$(sed -n 's/^ARG DEBIAN_TAG=//p' "$repository/Dockerfile")
base=docker.io/library/debian:$tag

if ! podman "${storage[@]}" image exists "$base"; then
  say "making $base with debootstrap"
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -1)
  rm -rf "$WORK/base"
  debootstrap --variant=minbase "${tag%%-*}" "$WORK/base" "$mirror" >"$WORK/debootstrap.log" 2>&1 \
    || fail "debootstrap; see $WORK/debootstrap.log"
  tar -C "$WORK/base" -c . | podman "${storage[@]}" import - "$base" >/dev/null
  rm -rf "$WORK/base"
fi

say "building the target cpu"
# shellcheck disable=SC2086
buildah "${storage[@]}" bud --isolation chroot --layers --pull-never --format docker \
  $BUILD_FLAGS --target cpu --tag "$IMAGE" "$repository" >"$WORK/build.log" 2>&1 \
  || { tail -30 "$WORK/build.log" >&2; fail "build; see $WORK/build.log"; }

podman() { command podman "${storage[@]}" "$@"; }
inside() { podman exec "$NAME" "$@"; }
cleanup() {
  podman rm --force --time 1 "$NAME" "$NAME-1" "$NAME-2" "$NAME-proxy" >/dev/null 2>&1 || true
  for one in 1 2 proxy; do ip netns delete "$NAME-$one" 2>/dev/null || true; done
}
trap cleanup EXIT

# The restrictions of compose.yaml: read-only, no privileges, shared memory for the features.
start() {
  local name=$1
  shift
  podman run --detach --name "$name" --cgroups=disabled --init=false \
    --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 \
    --read-only --read-only-tmpfs=false --cap-drop ALL --security-opt no-new-privileges \
    --tmpfs /tmp:rw,exec,nosuid,nodev,size=512m,mode=1777 --shm-size 3gb \
    --env OIS_CACHE_BYTES=2147483648 --env OIS_TOKEN=verify-me "$@" >/dev/null
}

healthy() { # NAME SECONDS
  local deadline=$((SECONDS + $2))
  until podman exec "$1" python /opt/ois/docker/healthcheck.py; do
    [ $SECONDS -lt $deadline ] || { podman logs "$1" | tail -30; return 1; }
    sleep 1
  done
}

say "starting it read-only, without privileges or network"
start "$NAME" --network none "$IMAGE"
say "health check: a real click"
healthy "$NAME" 120 || fail "no click was answered"
podman healthcheck run "$NAME" || fail "the image's own HEALTHCHECK"

say "not root, and only /tmp and /dev/shm are writable"
[ "$(inside id -u)" = 10001 ] || fail "runs as user $(inside id -u)"
for folder in / /opt/ois /engines /var /home; do
  ! inside touch "$folder/x" 2>/dev/null || fail "$folder can be written to"
done

say "clicks over gRPC and HTTP equal those of the engines in process"
podman exec --interactive "$NAME" python - <<'PYTHON' || fail "clicks"
import numpy as np
from ois_client import Client
from ois_client.contract.errors import AccessDenied

image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)

def clicks(url, **options):
    with Client(url, **options) as client:
        session = client.open(image)
        session.click(80, 60)
        return session.click(10, 10, positive=False)

expected = clicks("local:")
for url in ("grpc://127.0.0.1:8001", "http://127.0.0.1:8000"):
    np.testing.assert_array_equal(clicks(url, token="verify-me"), expected)
    try:
        clicks(url)
    except AccessDenied as error:
        print(f"without the token: {error}")
    else:
        raise SystemExit(f"{url} answers without the token")
PYTHON

say "metrics"
podman exec "$NAME" python -c '
from urllib.request import urlopen
text = urlopen("http://127.0.0.1:8002/metrics").read().decode()
assert "ois_store_bytes" in text and "ois_click_seconds_bucket" in text, text
' || fail "metrics"

say "kill -9 of the Python models: the server restarts"
# shellcheck disable=SC2016
inside sh -c 'for f in /proc/[0-9]*/comm; do read -r name < "$f" || continue
  case $name in triton_python_b*) kill -9 "$(basename "$(dirname "$f")")";; esac; done' || true
sleep 1
healthy "$NAME" 120 || fail "the server did not restart after its models were killed"

say "SIGTERM"
start=$SECONDS
podman stop --time 90 "$NAME" >/dev/null
status=$(podman inspect --format '{{.State.ExitCode}}' "$NAME")
[ "$status" = 0 ] || { podman logs "$NAME" | tail -30; fail "exit status $status"; }
took=$((SECONDS - start))
[ $took -lt 30 ] || fail "stopping took $took s without any request in progress"
say "stopped with status 0 after $took s"

say "two replicas and the proxy, each in its own network namespace"
for one in 1 2 proxy; do ip netns add "$NAME-$one"; done
ip -n "$NAME-proxy" link add bridge type bridge
ip -n "$NAME-proxy" address add 10.199.0.10/24 dev bridge
ip -n "$NAME-proxy" link set bridge up
ip -n "$NAME-proxy" link set lo up
for one in 1 2; do
  ip -n "$NAME-$one" link set lo up
  ip -n "$NAME-$one" link add eth0 type veth peer name "replica-$one" netns "$NAME-proxy"
  ip -n "$NAME-$one" address add "10.199.0.$one/24" dev eth0
  ip -n "$NAME-$one" link set eth0 up
  ip -n "$NAME-proxy" link set "replica-$one" master bridge up
  start "$NAME-$one" --network "ns:/run/netns/$NAME-$one" "$IMAGE"
done
for one in 1 2; do healthy "$NAME-$one" 120 || fail "replica $one"; done
start "$NAME-proxy" --network "ns:/run/netns/$NAME-proxy" \
  --add-host replica-1:10.199.0.1 --add-host replica-2:10.199.0.2 \
  --env OIS_REPLICAS="replica-1 replica-2" --env OIS_HEALTH_PORT=8080 \
  --entrypoint '["/opt/ois/docker/proxy-entrypoint.sh"]' "$IMAGE"
healthy "$NAME-proxy" 30 || fail "no click was answered through the proxy"

say "one replica is killed during clicks"
podman exec --interactive "$NAME-proxy" python - <<'PYTHON' &
import time
import numpy as np
from ois_client import Client
from ois_client.contract.errors import OISError

answered, failed = 0, 0
with Client("grpc://127.0.0.1:8001", token="verify-me") as client:
    images = [np.full((60, 80, 3), shade, np.uint8) for shade in range(0, 240, 20)]
    sessions = [client.open(image) for image in images]
    until = time.monotonic() + 25
    while time.monotonic() < until:
        for session in sessions:
            before = session.clicks()
            try:
                session.click(40, 30)
                assert session.clicks() != before
                session.undo()
                answered += 1
            except OISError as error:
                assert session.clicks() == before
                failed += 1
                print(f"{error.code}: {error}")
    assert all(session.click(1, 1).shape == (60, 80) for session in sessions)
print(f"{answered} clicks answered, {failed} typed errors, 0 lost")
PYTHON
clicking=$!
sleep 8
podman kill "$NAME-1" >/dev/null
wait "$clicking" || fail "clicks while a replica was killed"
podman logs "$NAME-proxy" | tail -2

podman image inspect --format 'passed: image of {{.Size}} bytes' "$IMAGE"
