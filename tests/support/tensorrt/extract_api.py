"""Writes api.json: the API of TensorRT's Python bindings, from their docstrings.

    python tests/support/tensorrt/extract_api.py tensorrt_cu12_bindings-10.12.*.whl *_cu13_*.whl

The wheels of the bindings are on PyPI (`pip download --no-deps
tensorrt-cu13-bindings==11.4.0.106`). They need TensorRT's libraries, but only when they are called:
for an import it is enough that the libraries exist. So this script compiles empty libraries with
gcc, imports the bindings with them and reads the signatures from the docstrings. The wheels must
be for the Python that runs this script.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OUTPUT = Path(__file__).with_name("api.json")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    "initLibNvInferPlugins",
)
CLASSES = (
    *("Builder", "IBuilderConfig", "IOptimizationProfile", "ITimingCache"),
    *("IHostMemory", "OnnxParser", "ParserError", "Runtime", "ICudaEngine", "IExecutionContext"),
    *("EngineInspector", "IProgressMonitor", "ILogger"),
)
#: Of large classes, the members that we use. Older bindings lack some of the classes.
PARTS = {
    "INetworkDefinition": ("get_layer", "num_layers"),
    "ILayer": ("type",),
    "IAttentionInputLayer": ("attention", "type"),
    "IAttention": ("decomposable",),
}
ENUMS = (
    *("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "ProfilingVerbosity"),
    *("LayerInformationFormat", "TensorIOMode", "DataType"),
    *("ExecutionContextAllocationStrategy", "LayerType"),
)


def signatures(function: object, name: str) -> list[str]:
    """The signatures of a pybind11 function, one per overload."""
    text = str(getattr(function, "__doc__", "") or "")
    overloads = re.findall(rf"^\d+\. ({re.escape(name)}\(.*)$", text, re.M)
    found = overloads or re.findall(rf"^({re.escape(name)}\(.*)$", text, re.M)[:1]
    return [line.replace("tensorrt_bindings.tensorrt.", "") for line in found]


def describe() -> dict[str, object]:
    """Describe the API of the bindings that this process can import."""
    import tensorrt_bindings as trt

    classes: dict[str, dict[str, list[str]]] = {}
    for name in CLASSES:
        kind = getattr(trt, name)
        members = [m for m in dir(kind) if m == "__init__" or not m.startswith("_")]
        classes[name] = {m: signatures(getattr(kind, m), m) for m in members}
    for name, members in PARTS.items():
        if (kind := getattr(trt, name, None)) is not None:
            classes[name] = {m: signatures(getattr(kind, m), m) for m in members}
    return {
        "version": trt.__version__,
        "classes": classes,
        "enums": {name: sorted(getattr(trt, name).__members__) for name in ENUMS},
    }


def extract(wheel: Path) -> dict[str, object]:
    """Run `describe` on one wheel, in a process with empty libraries."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        zipfile.ZipFile(wheel).extractall(folder)
        binary = (folder / "tensorrt_bindings" / "tensorrt.so").read_bytes()
        major = re.findall(rb"libnvinfer\.so\.(\d+)", binary)[0].decode()
        source = folder / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
        for library in LIBRARIES:
            name = f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
            subprocess.run([*command, str(source)], check=True)
        done = subprocess.run(
            [sys.executable, __file__, "--describe"],
            env={**os.environ, "LD_LIBRARY_PATH": scratch, "PYTHONPATH": scratch},
            stdout=subprocess.PIPE,
            check=True,
        )
    described: dict[str, object] = json.loads(done.stdout)
    return described


def main() -> None:
    if sys.argv[1:] == ["--describe"]:
        json.dump(describe(), sys.stdout)
        return
    if not sys.argv[1:]:
        sys.exit(
            "got no wheels; expected wheels of tensorrt-cu12-bindings or tensorrt-cu13-bindings"
        )
    versions = [extract(Path(wheel)) for wheel in sys.argv[1:]]
    OUTPUT.write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")
    print(f"{OUTPUT}: {', '.join(str(version['version']) for version in versions)}")


if __name__ == "__main__":
    main()
