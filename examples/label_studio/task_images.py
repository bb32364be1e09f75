"""Finds and downloads the image of a Label Studio task.

A task's data can contain `/data/upload/...` and `/data/local-files/?d=...` (served by Label
Studio), `s3://`, `gs://`, `azure-blob://` (Label Studio redirects to a signed address), and
`http(s)://`. The token is sent only to Label Studio, not along redirects.
"""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import urllib3

from ois_client import AccessDenied, InvalidImage, InvalidInput, ServerUnavailable
from ois_client.contract.decoding import FORMATS, is_image

CLOUD = ("s3", "gs", "azure-blob")


@dataclass(frozen=True, slots=True)
class Place:
    """The address of an image. of_label_studio: whether the token may be sent to it."""

    url: str
    of_label_studio: bool


def place_of(image: object, task_id: object, label_studio_url: str) -> Place:
    """Return the address of a task's image.

    image: the value in the task's data. label_studio_url: "" if unknown. Raises `InvalidInput` if
    the value is not an address, or if it needs Label Studio's address or the task's id and that
    is missing.
    """
    if not isinstance(image, str) or not image:
        raise InvalidInput(f"got the image {image!r} in the task's data; expected its address")
    try:
        scheme = urlsplit(image).scheme
    except ValueError as error:
        raise InvalidInput(
            f"got the image {image[:80]!r}; expected its address: {error}"
        ) from error
    if scheme in ("http", "https"):
        return Place(image, bool(label_studio_url) and _origin(image) == _origin(label_studio_url))
    if scheme not in ("", *CLOUD):
        raise InvalidInput(
            f"got the image {image[:80]!r}; expected http(s)://, a path of Label Studio, or one of "
            f"{', '.join(CLOUD)}"
        )
    if not label_studio_url:
        raise InvalidInput(
            f"the image {image[:80]!r} is served by Label Studio; set LABEL_STUDIO_URL"
        )
    if scheme in CLOUD:
        if not isinstance(task_id, int):
            raise InvalidInput(
                f"got a task without an id; expected one, because its image is at {scheme}://"
            )
        uri = base64.urlsafe_b64encode(image.encode()).decode()
        image = f"/tasks/{task_id}/presign/?fileuri={uri}"
    return Place(label_studio_url.rstrip("/") + "/" + image.lstrip("/"), of_label_studio=True)


@dataclass(slots=True)
class ImageFetcher:
    """Downloads images. Thread-safe.

    api_key: a personal access token (exchanged for a short-lived token) or a legacy token.
    """

    label_studio_url: str = ""
    api_key: str = field(default="", repr=False)
    max_bytes: int = 2**28
    timeout_s: float = 30
    _pool: urllib3.PoolManager = field(default_factory=urllib3.PoolManager, init=False, repr=False)
    _access: str = field(default="", init=False, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def fetch(self, image: object, task_id: object) -> bytes:
        """Return the bytes of a task's image.

        Raises `InvalidInput` (see `place_of`), `AccessDenied` if Label Studio refuses the token,
        `InvalidImage` if the answer is not the image or has more than `max_bytes`,
        `ServerUnavailable` if the host does not answer.
        """
        place = place_of(image, task_id, self.label_studio_url)
        status, body = self._get(place, self._authorization(renew=False))
        if status == 401 and place.of_label_studio and _is_personal(self.api_key):
            # the short-lived token has expired
            status, body = self._get(place, self._authorization(renew=True))
        if status in (401, 403):
            raise AccessDenied(
                f"{_shown(place.url)} answers {status}; set LABEL_STUDIO_API_KEY to a token whose "
                "owner may see the task"
            )
        if status != 200:
            raise InvalidImage(f"{_shown(place.url)} answers {status}; expected the task's image")
        if not is_image(body):
            # Nothing of the answer is told: whoever asks may not be allowed to read that address.
            raise InvalidImage(f"{_shown(place.url)} is no image; expected {', '.join(FORMATS)}")
        return body

    def _get(self, place: Place, authorization: dict[str, str]) -> tuple[int, bytes]:
        headers = authorization if place.of_label_studio else {}
        try:
            # urllib3 drops the Authorization header when a redirect leads to another host.
            reply = self._pool.request(
                "GET",
                place.url,
                headers=headers,
                timeout=self.timeout_s,
                retries=urllib3.Retry(connect=1, read=1, redirect=4),
                preload_content=False,
            )
            body = bytearray()
            for part in reply.stream(2**20):
                body += part
                if len(body) > self.max_bytes:
                    reply.close()
                    raise InvalidImage(
                        f"{_shown(place.url)} is larger than the limit of {self.max_bytes} bytes"
                    )
            reply.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnavailable(f"{_shown(place.url)} cannot be reached: {error}") from error
        return reply.status, bytes(body)

    def _authorization(self, *, renew: bool) -> dict[str, str]:
        if not self.api_key or not self.label_studio_url:
            return {}
        if not _is_personal(self.api_key):
            return {"Authorization": f"Token {self.api_key}"}
        with self._guard:
            if renew or not self._access:
                self._access = self._exchange()
            return {"Authorization": f"Bearer {self._access}"}

    def _exchange(self) -> str:
        """Exchange the personal access token for one that is valid for some minutes."""
        url = urljoin(self.label_studio_url.rstrip("/") + "/", "api/token/refresh")
        try:
            reply = self._pool.request(
                "POST",
                url,
                body=json.dumps({"refresh": self.api_key}),
                headers={"Content-Type": "application/json"},
                timeout=self.timeout_s,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnavailable(f"{_shown(url)} cannot be reached: {error}") from error
        try:
            return str(json.loads(reply.data)["access"])
        except (ValueError, KeyError, TypeError):
            raise AccessDenied(
                f"{_shown(url)} answers {reply.status} to the personal access token of "
                "LABEL_STUDIO_API_KEY; expected a new token. Make one in Account & Settings"
            ) from None


def _is_personal(api_key: str) -> bool:
    """Personal access tokens are JSON web tokens: three parts separated by dots."""
    return api_key.count(".") == 2


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _shown(url: str) -> str:
    """The address without its query, which may contain a signature."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
