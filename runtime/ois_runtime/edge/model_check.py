"""Envoy's filters that keep internal models closed over gRPC, where the body has the model's name.

One reads the field `model_name` of a call, the other refuses the call unless the name is one of
`rules.MODELS`. A message that cannot be read has no name. If it has several, the last counts, as
for every parser of protocol buffers.
"""

from __future__ import annotations

import base64

from ois_runtime.edge import rules
from ois_runtime.edge.routes import CHECK_MODEL, READ_MODEL, Json

_CALL = "/inference.GRPCInferenceService/ModelInfer"
_FIELD = "model_name"


def model_filters() -> list[Json]:
    """In the order in which they must run, before the router."""
    named = {
        "filter": READ_MODEL,
        "path": [{"key": _FIELD}],
        "value": {
            "list_match": {"one_of": {"string_match": {"safe_regex": {"regex": rules.MODELS}}}}
        },
    }
    open_model = {"sourced_metadata": {"metadata_matcher": named}}
    call = {"url_path": {"path": {"exact": _CALL}}}
    refusal = {
        "principals": [{"any": True}],
        "permissions": [{"and_rules": {"rules": [call, {"not_rule": open_model}]}}],
    }
    return [
        {
            "name": READ_MODEL,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http"
                ".grpc_field_extraction.v3.GrpcFieldExtractionConfig",
                "descriptor_set": {"inline_bytes": _descriptors()},
                "extractions_by_method": {
                    _CALL[1:].replace("/", "."): {"request_field_extractions": {_FIELD: {}}}
                },
            },
        },
        {
            "name": CHECK_MODEL,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": "DENY", "policies": {"internal models": refusal}},
            },
        },
    ]


def _descriptors() -> str:
    """Triton's messages, as Envoy needs them to find a field."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from tritonclient.grpc import model_config_pb2, service_pb2

    files = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    return base64.b64encode(files.SerializeToString()).decode()
