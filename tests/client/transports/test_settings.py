"""Addresses and settings are checked completely when they are created."""

import dataclasses
import itertools

import pytest

from ois_client import Client, InvalidInput
from ois_client.transports.address import Address
from ois_client.transports.exchange import TritonOptions
from ois_client.transports.settings import TLS, Retries, Timeouts


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("grpc://host:8001", Address("grpc", "host", 8001)),
        ("grpc://host", Address("grpc", "host", 8001)),
        ("grpcs://host", Address("grpcs", "host", 443)),
        ("http://10.0.0.1", Address("http", "10.0.0.1", 8000)),
        ("https://host/base/", Address("https", "host", 443, "/base")),
        ("http://[::1]:9", Address("http", "::1", 9)),
    ],
)
def test_an_address_is_read(url, expected):
    address = Address.parse(url)
    assert address == expected
    assert Address.parse(str(address)) == address


def test_the_properties_of_an_address():
    assert Address.parse("http://[::1]:9").target == "[::1]:9"
    assert Address.parse("grpcs://h").secure
    assert not Address.parse("http://h").secure
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "[::1]"):
        assert Address.parse(f"grpc://{host}").loopback
    for host in ("10.0.0.1", "example.org"):
        assert not Address.parse(f"grpc://{host}").loopback


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("grpc:", "no host"),
        ("grpc:host:8001", "no host"),
        ("grpc://", "no host"),
        ("grpc://host:port", "Port"),
        ("grpc://host:99999", "Port"),
        ("grpc://host/models", "no path"),
        ("http://user@host", "token="),
        ("http://host?x=1", "query"),
        ("http://ho st", "no host"),
        ("http://[::1", "IPv6"),
    ],
)
def test_a_wrong_address_is_refused_with_a_reason_and_an_example(url, message):
    with pytest.raises(InvalidInput, match=rf"{message}.*grpc://host:8001"):
        Client(url)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((Timeouts, {name.name: bad}) for name in dataclasses.fields(Timeouts) for bad in (0, -1)),
        (Timeouts, {"click_s": float("inf")}),
        (Timeouts, {"click_s": float("nan")}),
        (Retries, {"attempts": 0}),
        (Retries, {"backoff_s": -1}),
        (Retries, {"backoff_s": 3, "max_backoff_s": 2}),
        (TLS, {"certificate": "c.pem"}),
        (TLS, {"key": "k.pem"}),
    ],
)
def test_impossible_settings_are_refused(kind, wrong):
    with pytest.raises(InvalidInput):
        kind(**wrong)


@pytest.mark.parametrize("kind", [Timeouts, Retries, TLS, TritonOptions])
def test_settings_are_frozen_and_keyword_only(kind):
    with pytest.raises(TypeError):
        kind(1)
    made = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(kind)[0].name, 1)


def test_pauses_double_up_to_the_longest_and_are_shortened_at_random():
    retries = Retries(attempts=6, backoff_s=0.1, max_backoff_s=0.5)
    runs = [list(retries.pauses_s()) for _ in range(50)]
    for pauses in runs:
        for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 0.5, 0.5), strict=True):
            assert longest / 2 <= pause <= longest
    assert any(a != b for a, b in itertools.pairwise(runs))
    assert list(Retries(attempts=1).pauses_s()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 3}, "unknown option 'timeout'; expected for grpc: .*timeouts"),
        ({"timeouts": 3}, "timeouts of type int"),
        ({"mask_format": "png"}, "mask_format of type str"),
        ({"shared_memory": 1}, "shared_memory of type int"),
        ({"token": ""}, "token"),
        ({"token": "two\nlines"}, "token"),
        ({"tls": TLS()}, "grpcs://"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(options, message):
    with pytest.raises(InvalidInput, match=message):
        Client("grpc://127.0.0.1:1", **options)


def test_missing_and_invalid_tls_files_are_named(tmp_path):
    (tmp_path / "no.pem").write_text("not PEM")
    with pytest.raises(InvalidInput, match=r"gone\.pem"):
        Client("grpcs://localhost:1", tls=TLS(ca=tmp_path / "gone.pem"))
    with pytest.raises(InvalidInput, match=r"gone\.pem"):
        Client("https://localhost:1", tls=TLS(ca=tmp_path / "gone.pem"))
    with pytest.raises(InvalidInput, match="PEM"):
        Client("https://localhost:1", tls=TLS(ca=tmp_path / "no.pem"))


def test_a_token_is_not_in_the_repr():
    assert "s3cret" not in repr(TritonOptions(token="s3cret"))
