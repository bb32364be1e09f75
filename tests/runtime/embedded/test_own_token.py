"""Where a server's random token is, who finds it there, and when it is gone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ois_cli.main import main
from ois_client.contract.errors import InvalidInput
from ois_client.transports.address import Address
from ois_client.transports.exchange import TritonOptions
from ois_client.transports.local_token import local_token, token_file
from ois_runtime.embedded.own_token import new_token, told_to_own_user


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def found(url: str) -> str | None:
    return local_token(Address.parse(url))


def test_clients_find_the_token_while_the_server_runs(state: Path) -> None:
    token = new_token()
    with told_to_own_user(token, (18001, 18000)) as files:
        assert [file.is_relative_to(state) for file in files] == [True, True]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
        for url in ("grpc://127.0.0.1:18001", "http://localhost:18000", "http://[::1]:18000"):
            assert found(url) == token
        for url in ("grpc://127.0.0.1:18002", "grpc://10.0.0.5:18001", "http://example.com:18000"):
            assert found(url) is None
        own = TritonOptions(token="mine")
        assert own.token_for(Address.parse("grpc://127.0.0.1:18001")) == "mine"
    assert found("grpc://127.0.0.1:18001") is None
    assert list(files[0].parent.iterdir()) == []


def test_the_token_of_a_later_server_stays() -> None:
    with told_to_own_user("first", (18001,)):
        later = told_to_own_user("second", (18001,))
        later.__enter__()
    assert found("grpc://127.0.0.1:18001") == "second"
    later.__exit__(None, None, None)
    assert found("grpc://127.0.0.1:18001") is None


@pytest.mark.parametrize("text", [b"", b"two\nlines", b"\xff", "\u00fc".encode()])
def test_a_damaged_file_is_no_token(text: bytes) -> None:
    with told_to_own_user("token", (18001,)) as files:
        files[0].write_bytes(text)
        assert found("grpc://127.0.0.1:18001") is None


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(state: Path) -> None:
    state.write_text("a file where the folder would be")
    with (
        pytest.raises(InvalidInput, match=r"state.*XDG_STATE_HOME.*--token-file.*--no-token"),
        told_to_own_user("token", (18001,)),
    ):
        pass


def test_a_user_without_a_home_folder_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert token_file(18001) is None
    assert found("grpc://127.0.0.1:18001") is None
    with pytest.raises(InvalidInput, match="HOME"), told_to_own_user("token", (18001,)):
        pass


@pytest.mark.parametrize("given", [["--token=abc"], ["--token-file=token"]])
def test_no_token_and_a_token_is_an_error(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--no-token", *given]) == 2
    assert "--no-token with a token" in capsys.readouterr().err
