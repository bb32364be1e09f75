"""Fills in nginx.conf.template: `python nginx_conf.py --http HOST:PORT ... > nginx.conf`.

The rules for requests are in `ois_runtime.edge.rules`, which the proxy's image has, too.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ois_runtime.edge import rules

TEMPLATE = Path(__file__).with_name("nginx.conf.template")

_ADDRESS = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}")
_PATH = re.compile(r"/[A-Za-z0-9._/-]*")

#: Names of the template that stand for rules.
_RULES = {
    **{name: str(value) for name, value in vars(rules).items() if name.isupper()},
    "CONTENT_TYPES": "\n".join(f"    {kind} 0;" for kind in rules.CONTENT_TYPES),
}

_METRICS = """
  server {{
    listen {listen};
    location = /metrics {{
      proxy_pass http://{server};
    }}
    location / {{
      return 403;
    }}
  }}"""


def render(args: argparse.Namespace) -> str:
    """The configuration for `parse`d arguments."""
    values = {
        **_RULES,
        "FOLDER": args.folder,
        "ACCESS_LOG": f"{args.access_log} ois" if args.access_log else "off",
        "HTTP_LISTEN": args.http_listen,
        "GRPC_LISTEN": args.grpc_listen,
        "HTTP_SERVERS": _servers(args.http),
        "GRPC_SERVERS": _servers(args.grpc),
        "LOCAL_LISTEN": f"    listen {args.local_listen};" if args.local_listen else "",
        "TLS": " ssl" if args.certificate else "",
        "CERTIFICATE": (
            f"    ssl_certificate {args.certificate};\n    ssl_certificate_key {args.key};"
            if args.certificate
            else ""
        ),
        "METRICS": (
            _METRICS.format(listen=args.metrics_listen, server=args.metrics) if args.metrics else ""
        ),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda name: values[name[1]], template)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=_path, required=True, help="may be written to")
    parser.add_argument("--http", type=_address, action="append", required=True, help="a server")
    parser.add_argument("--grpc", type=_address, action="append", required=True, help="a server")
    parser.add_argument("--http-listen", type=_address, required=True)
    parser.add_argument("--grpc-listen", type=_address, required=True)
    parser.add_argument("--local-listen", type=_address, help="HTTP without TLS, for health")
    parser.add_argument("--metrics", type=_address, help="a server")
    parser.add_argument("--metrics-listen", type=_address)
    parser.add_argument("--certificate", type=_path, help="PEM; clients then need TLS")
    parser.add_argument("--key", type=_path, help="PEM")
    parser.add_argument("--access-log", type=_path, help="a file, or /dev/stdout")
    args = parser.parse_args(argv)
    for one, other in (("certificate", "key"), ("metrics", "metrics_listen")):
        if (getattr(args, one) is None) != (getattr(args, other) is None):
            parser.error(f"got one of --{one} and --{other.replace('_', '-')}; expected both")
    return args


def _servers(addresses: list[str]) -> str:
    return "\n".join(f"    server {address} max_fails=1 fail_timeout=5s;" for address in addresses)


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"got the address {text!r}; expected HOST:PORT")
    return text


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"got the path {text!r}; expected an absolute one of A-Z a-z 0-9 . _ - /"
        )
    return text


if __name__ == "__main__":
    sys.stdout.write(render(parse()))
