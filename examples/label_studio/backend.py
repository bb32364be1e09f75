"""An ML backend for Label Studio: takes clicks and returns brush masks or polygons.

    OIS_URL=grpc://ois:8001 LABEL_STUDIO_URL=http://label-studio:8080 python backend.py

Label Studio sends all clicks on an object with every new click. The image is fetched and encoded
once, and each new click runs the network's decoder once.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from label_studio_format import (
    no_prediction,
    prediction_of_mask,
    read_controls,
    read_prompt,
    saved_signs,
)
from ois_client import (
    AccessDenied,
    Client,
    DeadlineExceeded,
    InvalidInput,
    OISError,
    ServerOverloaded,
    ServerUnavailable,
)
from ois_client.environment import open_client
from ois_client.sessions.replay import RecentSessions, replay
from task_images import ImageFetcher

log = logging.getLogger("ois.label_studio")

#: Limit for a request. Label Studio also sends the task's other masks, which can be large.
MAX_BODY_BYTES = 2**28

#: The HTTP status of each error; 500 for any other.
STATUS: tuple[tuple[type[OISError], int], ...] = (
    (InvalidInput, 400),
    (AccessDenied, 502),
    (ServerUnavailable, 503),
    (ServerOverloaded, 503),
    (DeadlineExceeded, 504),
)


class Backend:
    """Answers predictions. Thread-safe."""

    def __init__(self, client: Client, images: ImageFetcher) -> None:
        self._client = client
        self._images = images
        self._recent = RecentSessions(client)

    @property
    def model_version(self) -> str:
        """The network's name and the start of the engines' digest."""
        info = self._client.info
        return f"{info.network}-{info.model_sha256[:12]}"

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a `/predict` request; without clicks, with one empty prediction per task.

        Raises `OISError` if the request is invalid or a server does not answer.
        """
        params = request.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        tasks = request.get("tasks")
        nothing = {
            "results": [no_prediction(self.model_version)]
            * max(1, len(tasks) if isinstance(tasks, list) else 1)
        }
        if not context:
            return nothing
        controls = read_controls(request.get("label_config"))
        task = _task(request)
        prompt = read_prompt(context, controls, saved_signs(task))
        if prompt is None:
            return nothing
        for reason in prompt.left_out:
            log.warning("/predict: left out a region: %s", reason)
        image = task["data"].get(controls.value)
        with self._recent.session(
            str(image), lambda: self._images.fetch(image, task.get("id"))
        ) as session:
            picture = session.picture
            if (picture.width, picture.height) != (prompt.width, prompt.height):
                raise InvalidInput(
                    f"the image is {picture.width}x{picture.height} pixels here; expected "
                    f"{prompt.width}x{prompt.height} as in Label Studio. Check that both read the "
                    "same file"
                )
            mask = replay(session, prompt.clicks)
        return {"results": [prediction_of_mask(mask, prompt.label, controls, self.model_version)]}


def make_app(backend: Backend, user: str = "", password: str = "") -> Starlette:
    """Make the web application.

    user, password: for HTTP basic authentication; "" switches it off.
    """
    expected = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def endpoint(
        work: Callable[[Request], Awaitable[dict[str, Any]]],
    ) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def answer(request: Request) -> JSONResponse:
            given = request.headers.get("authorization", "")
            if user and not hmac.compare_digest(given.encode(), expected.encode()):
                denied = AccessDenied(
                    "expected the user and password of BASIC_AUTH_USER and BASIC_AUTH_PASS"
                )
                return _failure(401, denied, {"WWW-Authenticate": "Basic"})
            try:
                return JSONResponse(await work(request))
            except OISError as error:
                status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
                log.warning("%s: %s", request.url.path, error)
                return _failure(status, error)

        return answer

    async def health(_: Request) -> dict[str, Any]:
        return {"status": "UP", "model_class": "OISDeploy"}

    async def setup(request: Request) -> dict[str, Any]:
        # Label Studio calls this when a person connects the backend, so check the interface here.
        body = await _body(request)
        read_controls(body.get("schema"))
        return {"model_version": backend.model_version}

    async def predict(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(backend.predict, await _body(request))

    async def webhook(_: Request) -> dict[str, Any]:
        return {"status": "ignored: this backend does not train"}

    return Starlette(
        routes=[
            Route("/", endpoint(health), methods=["GET"]),
            Route("/health", endpoint(health), methods=["GET"]),
            Route("/setup", endpoint(setup), methods=["POST"]),
            Route("/predict", endpoint(predict), methods=["POST"]),
            Route("/webhook", endpoint(webhook), methods=["POST"]),
        ]
    )


def _task(request: dict[str, Any]) -> dict[str, Any]:
    tasks = request.get("tasks")
    if not isinstance(tasks, list) or not tasks or not isinstance(tasks[0], dict):
        raise InvalidInput("got no task; expected the task that is being annotated, in `tasks`")
    if not isinstance(tasks[0].get("data"), dict):
        raise InvalidInput(
            "got a task without data; expected an object with the address of the image"
        )
    task: dict[str, Any] = tasks[0]
    return task


async def _body(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise InvalidInput(
                f"got a request of more than {MAX_BODY_BYTES} bytes, which is the limit"
            )
    try:
        value = json.loads(body)
        if b"\\u" in body:  # JSON can spell lone surrogates, which no answer could be encoded with
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"got a request that is not JSON in Unicode: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"got JSON of type {type(value).__name__}; expected an object")
    return value


def _failure(status: int, error: OISError, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in the format of `label-studio-ml`, with our error code."""
    body = {"status": status, "detail": str(error), "code": error.code}
    return JSONResponse(body, status_code=status, headers=headers)


def main() -> None:
    """Serve on `$HOST:$PORT`, by default 127.0.0.1:9090."""
    import uvicorn

    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"))
    setting = os.environ.get
    try:
        client = open_client()
    except OISError as error:
        raise SystemExit(f"error: {error}") from error
    with client:
        images = ImageFetcher(setting("LABEL_STUDIO_URL", ""), setting("LABEL_STUDIO_API_KEY", ""))
        app = make_app(
            Backend(client, images), setting("BASIC_AUTH_USER", ""), setting("BASIC_AUTH_PASS", "")
        )
        uvicorn.run(app, host=setting("HOST", "127.0.0.1"), port=int(setting("PORT", "9090")))


if __name__ == "__main__":
    main()
