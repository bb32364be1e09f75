"""Health check of a container: a click through its HTTP port must return a mask.

    OIS_HEALTH_PORT   HTTP port, 8000 by default
    OIS_TOKEN_FILE    file with the token, if there is one; or OIS_TOKEN, the token itself

Triton's own health check says "ready" even after the process of a Python model has died.
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
    print("healthy: a click was answered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
