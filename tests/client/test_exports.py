"""The names that `ois_client` exports, and the cost of importing it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ois_client
from ois_client.contract import errors

NAMES = [
    "AccessDenied",
    "AsyncClient",
    "AsyncSession",
    "AsyncTransport",
    "Cancelled",
    "Click",
    "ClickReply",
    "ClickRequest",
    "Client",
    "DeadlineExceeded",
    "EncodeReply",
    "EngineError",
    "Geometry",
    "ImageLimits",
    "IncompatibleServer",
    "InvalidClick",
    "InvalidImage",
    "InvalidInput",
    "MaskFormat",
    "ModelInfo",
    "OISAutomaticMaskGenerator",
    "OISError",
    "OISModel",
    "OISPredictor",
    "OutputError",
    "Picture",
    "Retries",
    "ServerOverloaded",
    "ServerUnavailable",
    "Session",
    "TLS",
    "Timeouts",
    "TooManyClicks",
    "Transport",
    "UnknownImage",
    "decode_mask",
    "encode_mask",
    "load_image",
]


def run(code):
    folder = str(Path(ois_client.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": folder}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_exported_names():
    assert sorted(ois_client.__all__) == sorted(NAMES)
    assert all(hasattr(ois_client, name) for name in NAMES)


def test_every_package_says_that_it_is_typed():
    packages = [path.parent for path in Path(__file__).parents[2].glob("*/ois_*/__init__.py")]
    assert len(packages) == 6
    assert all((package / "py.typed").is_file() for package in packages)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        ois_client.Clint  # noqa: B018


def test_importing_the_client_loads_nothing_heavy():
    loaded = set(json.loads(run("import json, sys, ois_client; print(json.dumps([*sys.modules]))")))
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "scipy", "transformers", "rich", "typer"}
    heavy |= {"tritonclient", "grpc", "aiohttp", "urllib3", "asyncio", "ssl"}
    assert not heavy & loaded
    upper = {name for name in loaded if name.startswith("ois_")} - {"ois_client"}
    assert {name.partition(".")[0] for name in upper} <= {"ois_client"}


def test_importing_the_client_takes_less_than_0_3_seconds():
    """Of the CPU: what others do on the machine does not count."""
    code = "import time; t = time.process_time(); import ois_client; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def every_error(root=errors.OISError):
    yield root
    for child in root.__subclasses__():
        yield from every_error(child)


OURS = [error for error in every_error() if error.__module__ == errors.__name__]


#: Only exports and training raise these.
OF_THE_TOOLCHAIN = {"CheckpointError", "ExportError", "ParityError", "UnsupportedGraph"}


def test_every_error_a_client_can_meet_is_exported_and_all_are_drawn_in_the_tree():
    names = {error.__name__ for error in OURS} - OF_THE_TOOLCHAIN
    assert names == {name for name in NAMES if name in vars(errors)}
    tree = errors.__doc__ or ""
    for error in OURS:
        drawn = re.search(rf"^(.*?){error.__name__}\b", tree, re.MULTILINE)
        assert drawn is not None
        depth = len(error.__mro__) - len(errors.OISError.__mro__)
        assert len(drawn[1]) == 4 + 4 * depth


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_an_error_travels_by_its_code(error):
    back = errors.error_from_code(error.code, "what happened")
    assert type(back) is error
    assert str(back) == "what happened"


def test_codes_are_unique_and_unknown_ones_keep_their_name():
    assert len({error.code for error in OURS}) == len(OURS)
    assert str(errors.error_from_code("FROM_THE_FUTURE", "boo")) == "FROM_THE_FUTURE: boo"
