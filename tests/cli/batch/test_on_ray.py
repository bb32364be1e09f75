"""How many workers a cluster gets and what each takes; what is refused before Ray starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ois_cli.batch import on_ray
from ois_cli.batch.on_ray import LOCAL, RayPlan, _shares
from ois_cli.main import _with_ray_address, main
from ois_client.contract.errors import EngineError, InvalidInput

CPUS = {"CPU": 8.0, "memory": 1e9}
GPUS = {**CPUS, "GPU": 4.0}


@pytest.mark.parametrize(
    ("resources", "plan", "workers", "share"),
    [
        (CPUS, {}, 8, {"num_cpus": 1}),
        (CPUS, {"threads": 3}, 2, {"num_cpus": 3}),
        (CPUS, {"threads": 8, "workers": 1}, 1, {"num_cpus": 8}),
        (GPUS, {}, 8, {"num_cpus": 1}),
        (GPUS, {"on_gpu": True}, 4, {"num_cpus": 1, "num_gpus": 1}),
        (GPUS, {"on_gpu": True, "workers": 2}, 2, {"num_cpus": 1, "num_gpus": 1}),
        (GPUS, {"on_gpu": True, "workers": 8}, 8, {"num_cpus": 1, "num_gpus": 0.5}),
        (GPUS, {"on_gpu": True, "workers": 5}, 5, {"num_cpus": 1, "num_gpus": 0.5}),
    ],
)
def test_one_worker_per_device(
    resources: dict[str, float], plan: dict[str, Any], workers: int, share: dict[str, float]
) -> None:
    assert _shares(resources, RayPlan(address=LOCAL, **plan)) == (workers, share)


def test_workers_that_would_wait_for_ever_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"9 workers with 1 threads each.*8 cores"):
        _shares(CPUS, RayPlan(address=LOCAL, workers=9))
    with pytest.raises(InvalidInput, match="1 workers with 9 threads"):
        _shares(CPUS, RayPlan(address=LOCAL, threads=9))
    with pytest.raises(EngineError, match="no GPU"):
        _shares(CPUS, RayPlan(address=LOCAL, on_gpu=True))


def test_the_address_is_optional() -> None:
    assert _with_ray_address(["annotate", "a", "--ray"]) == ["annotate", "a", "--ray=local"]
    assert _with_ray_address(["--ray", "--json"]) == ["--ray=local", "--json"]
    assert _with_ray_address(["--ray", "auto", "a"]) == ["--ray", "auto", "a"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["encode", "a.png", "--output", "f", "--ray", "photos"], "HOST:PORT"),
        (["encode", "a.png", "--output", "f", "--workers", "2"], "without --ray"),
        (["encode", "a.png", "--url", "grpc://127.0.0.1:1", "--ray"], "the server does the work"),
        (["annotate", "c.jsonl", "-o", "m.json", "--workers", "2"], "without --ray"),
        (["annotate", "c.jsonl", "-o", "m.json", "--url", "local:cuda:1", "--ray"], "device cuda"),
        (
            ["annotate", "c.jsonl", "-o", "m.json", "--url", "http://h:1", "--threads", "2"],
            "local:",
        ),
    ],
)
def test_a_mistake_is_reported_before_ray_starts(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(on_ray, "cluster", None)  # starting one would fail
    assert main([*words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "INVALID_INPUT"
    assert said in error["message"]
