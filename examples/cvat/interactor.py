"""The Nuclio function behind CVAT's "AI tools": clicks in, a mask out.

CVAT sends the image and all points on an object each time. The server behind OIS_URL knows the
image by its content, so it is encoded once, whichever worker a click reaches; a worker that has
seen the points before does one click, another repeats them.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from cvat_format import clicks_in_order, read_request, reply_of_mask
from ois_client import Client, InvalidInput, OISError
from ois_client.sessions.replay import RecentSessions, replay


def init_context(context: Any) -> None:
    """Called once by each worker. Raises when no server answers: Nuclio then starts it again."""
    client = Client(os.environ.get("OIS_URL", "local:"))
    context.user_data.recent = RecentSessions(client)
    context.logger.info(f"clicks go to {client.info.network}, {client.info.engine}")


def handler(context: Any, event: Any) -> Any:
    """Called for each click. Errors are a sentence under `error`; 400 when the request is wrong."""
    try:
        image, points = read_request(event.body)
        recent: RecentSessions = context.user_data.recent
        with recent.session(hashlib.sha256(image).hexdigest(), lambda: image) as session:
            size = session.picture.width, session.picture.height
            mask = replay(session, clicks_in_order(points, session.clicks(), *size))
        status, reply = 200, reply_of_mask(mask)
    except OISError as error:
        status, reply = 400 if isinstance(error, InvalidInput) else 503, {"error": str(error)}
        # CVAT's page shows the status alone; the sentence is in the function's log.
        context.logger.warn(f"{error.code}: {error}")
    return context.Response(
        body=json.dumps(reply), headers={}, content_type="application/json", status_code=status
    )
