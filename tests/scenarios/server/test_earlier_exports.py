"""A model repository that an earlier release exported can still be served."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ois_client import Client
from ois_runtime.embedded.options import ServerOptions
from ois_runtime.embedded.server import EmbeddedServer
from support.server.calls import picture

#: What `model.py` imported before the modules moved into subpackages.
EARLIER = {
    "ois_segment": ("serving_triton", "SegmentModel"),
    "ois_preprocess": ("serving_ensemble", "PreprocessModel"),
    "ois_postprocess": ("serving_ensemble", "PostprocessModel"),
}


def test_a_repository_of_an_earlier_export_is_served(engines: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(engines / "repository", repository)
    for model, (module, name) in EARLIER.items():
        (repository / model / "1" / "model.py").write_text(
            f"from ois_runtime.{module} import {name} as TritonPythonModel\n"
        )
    # Triton starts only if every model loads.
    with (
        EmbeddedServer(repository, ServerOptions(cache_bytes=2**24)) as server,
        Client(server.grpc_url) as client,
        Client(f"local:{engines}") as twin,
    ):
        image = picture(1).pixels()
        np.testing.assert_array_equal(
            client.open(image).click(40, 40), twin.open(image).click(40, 40)
        )
