"""A container is healthy when a click through its own door gives a mask.

    OIS_HEALTH_PORT   HTTP port of the door, 8000 by default
    OIS_TOKEN_FILE    file with the token, where one is set; or OIS_TOKEN, the token itself

Triton's own health says "ready" even after the process of a Python model has died.
"""

from __future__ import annotations

import os
import sys

from ois_client.contract.errors import OISError
from ois_runtime.embedded.options import token_from_environment
from ois_runtime.embedded.probe import probe_click


def main() -> int:
    port = int(os.environ.get("OIS_HEALTH_PORT", "8000"))
    try:
        probe_click("127.0.0.1", port, token=token_from_environment(os.environ), timeout_s=25)
    except OISError as error:
        print(f"unhealthy: {error}")
        return 1
    print("healthy: a click came back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
