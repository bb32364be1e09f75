"""The Nuclio function of CVAT's "AI Tools": takes clicks and returns a mask.

CVAT sends the image and all points on an object with every click. The server at OIS_URL
identifies an image by its content, so it is encoded once for all workers. A worker that has
handled the earlier points runs one click; any other worker repeats them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cvat_format import clicks_in_order, read_request, reply_of_mask
from ois_client import InvalidInput, OISError
from ois_client.environment import open_client
from ois_client.sessions.replay import RecentSessions, replay


def init_context(context: Any) -> None:
    """Connect to the server. Nuclio calls this once per worker, and restarts it if this raises."""
    client = open_client()
    context.user_data.recent = RecentSessions(client)
    context.logger.info(f"clicks go to {client.info.network}, {client.info.engine}")


def handler(context: Any, event: Any) -> Any:
    """Answer one click. Errors have a message under `error`; the status is 400 or 503."""
    try:
        image, points = read_request(event.body)
        recent: RecentSessions = context.user_data.recent
        with recent.session(hashlib.sha256(image).hexdigest(), lambda: image) as session:
            size = session.picture.width, session.picture.height
            mask = replay(session, clicks_in_order(points, session.clicks(), *size))
        status, reply = 200, reply_of_mask(mask)
    except OISError as error:
        status, reply = 400 if isinstance(error, InvalidInput) else 503, {"error": str(error)}
        # CVAT's page shows only the status; the message is in the function's log.
        context.logger.warn(f"{error.code}: {error}")
    # No spaces: the mask has a number for every pixel.
    body = json.dumps(reply, separators=(",", ":"))
    return context.Response(
        body=body, headers={}, content_type="application/json", status_code=status
    )
