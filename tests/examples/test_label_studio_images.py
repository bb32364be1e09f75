"""The image of a Label Studio task is found, and the token is sent only to Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ois_client import AccessDenied, InvalidImage, InvalidInput, ServerUnavailable
from ois_client.contract.decoding import FORMATS
from support.hosts.label_studio import LEGACY_TOKEN, PERSONAL_TOKEN, Host, jpeg
from task_images import ImageFetcher, place_of


@pytest.mark.parametrize(
    ("image", "url", "of_label_studio"),
    [
        ("/data/upload/1/a.jpg", "http://ls:8080/data/upload/1/a.jpg", True),
        ("/data/local-files/?d=a/b.jpg", "http://ls:8080/data/local-files/?d=a/b.jpg", True),
        ("http://ls:8080/data/x.jpg", "http://ls:8080/data/x.jpg", True),
        ("https://ls:8080/data/x.jpg", "https://ls:8080/data/x.jpg", False),
        ("http://ls.example.org/x.jpg", "http://ls.example.org/x.jpg", False),
        (
            "s3://bucket/a b.jpg",
            "http://ls:8080/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYSBiLmpwZw==",
            True,
        ),
    ],
)
def test_every_kind_of_address_is_found(image: str, url: str, of_label_studio: bool) -> None:
    place = place_of(image, 7, "http://ls:8080/")
    assert (place.url, place.of_label_studio) == (url, of_label_studio)


@pytest.mark.parametrize(
    ("image", "task_id", "url", "message"),
    [
        (None, 1, "http://ls", "expected its address"),
        ("", 1, "http://ls", "expected its address"),
        ("http://[", 1, "http://ls", "expected its address"),
        ("file:///etc/passwd", 1, "http://ls", "expected http"),
        ("/data/upload/a.jpg", 1, "", "set LABEL_STUDIO_URL"),
        ("gs://bucket/a.jpg", None, "http://ls", "a task without an id"),
    ],
)
def test_other_addresses_are_refused(image: Any, task_id: Any, url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        place_of(image, task_id, url)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def test_images_come_with_either_kind_of_token(host: Host) -> None:
    path = "/data/upload/1/0.jpg"
    legacy = ImageFetcher(host.url(host.studio), LEGACY_TOKEN)
    assert legacy.fetch(path, 7) == host.images[path]
    personal = ImageFetcher(host.url(host.studio), PERSONAL_TOKEN)
    assert personal.fetch(path, 7) == personal.fetch(path, 7) == host.images[path]
    assert host.exchanges == 1
    host.accepted = {"Bearer access-2"}  # the first has expired
    assert personal.fetch(path, 7) == host.images[path]
    assert host.exchanges == 2


def test_the_token_is_sent_only_to_label_studio(host: Host) -> None:
    fetcher = ImageFetcher(host.url(host.studio), LEGACY_TOKEN)
    assert fetcher.fetch("s3://bucket/key.jpg", 7) == jpeg(9)
    assert fetcher.fetch(host.url(host.storage) + "/direct.jpg", 7) == jpeg(9)
    sent = {server: token for server, _, token in host.seen}
    assert sent == {"studio": f"Token {LEGACY_TOKEN}", "storage": ""}


@pytest.mark.parametrize("answer", [b" ", b"root:x:0:0:root", b'{"secret": 17}' * 99])
def test_nothing_of_an_answer_that_is_no_image_is_told(host: Host, answer: bytes) -> None:
    """Whoever sends a task can name any address that the backend reaches."""
    path = "/data/upload/1/0.jpg"
    fetcher = ImageFetcher(host.url(host.studio), LEGACY_TOKEN)
    host.images[path] = answer
    with pytest.raises(InvalidImage) as refused:
        fetcher.fetch(path, 7)
    expected = f"{host.url(host.studio)}{path} is no image; expected {', '.join(FORMATS)}"
    assert str(refused.value) == expected  # neither the bytes nor how many


def test_failed_downloads_have_a_message(host: Host) -> None:
    url = host.url(host.studio)
    with pytest.raises(AccessDenied, match=r"answers 401; set LABEL_STUDIO_API_KEY"):
        ImageFetcher(url, "wrong").fetch("/data/upload/1/0.jpg", 7)
    with pytest.raises(AccessDenied, match="Make one in Account"):
        ImageFetcher(url, "a.b.c").fetch("/data/upload/1/0.jpg", 7)
    with pytest.raises(InvalidImage, match="answers 404"):
        ImageFetcher(url, LEGACY_TOKEN).fetch("/data/upload/1/none.jpg", 7)
    with pytest.raises(InvalidImage, match="larger than the limit of 100 bytes"):
        ImageFetcher(url, LEGACY_TOKEN, max_bytes=100).fetch("/data/upload/1/0.jpg", 7)
    with pytest.raises(ServerUnavailable, match=r"http://127\.0\.0\.1:1/x cannot be reached"):
        ImageFetcher(timeout_s=2).fetch("http://127.0.0.1:1/x?signature=1", 7)
    assert LEGACY_TOKEN not in repr(ImageFetcher(url, LEGACY_TOKEN))
