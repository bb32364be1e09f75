"""Which requests may pass from clients to Triton.

Triton 2.51 crashes on some requests that a stranger can send (docs/security.md), so a proxy passes
on only what a well-formed request of ours can be: exact routes and methods, no bodies where none
belong, no compressed bodies, two content types, and a short JSON header.

The patterns are regular expressions for whole paths, in the syntax that PCRE (nginx), RE2 (Envoy)
and Python share.
"""

from __future__ import annotations

from ois_client.wire import MODEL, ONESHOT_MODEL

#: The models that clients may name.
MODELS = f"ois_({MODEL.removeprefix('ois_')}|{ONESHOT_MODEL.removeprefix('ois_')})"

#: GET, without a body: health checks and descriptions.
HTTP_DESCRIPTION = rf"/v2(/health/(live|ready)|/models/{MODELS}(/ready|/config)?)?"
#: GET, also without the token.
HTTP_HEALTH = r"/v2/health/(live|ready)"
#: POST.
HTTP_INFER = rf"/v2/models/{MODELS}/infer"

GRPC_DESCRIPTION = (
    r"/(inference\.GRPCInferenceService/"
    r"(Server(Live|Ready|Metadata)|Model(Ready|Metadata|Config))|grpc\.health\.v1\.Health/Check)"
)
#: Also without the token.
GRPC_HEALTH = (
    r"/(inference\.GRPCInferenceService/Server(Live|Ready)|grpc\.health\.v1\.Health/Check)"
)
GRPC_INFER = r"/inference\.GRPCInferenceService/ModelInfer"

#: Triton crashes on a large form, the type that curl and urllib send by default.
CONTENT_TYPES = ("application/octet-stream", "application/json")
#: The length of the JSON at the beginning of an infer request, or of all of it if it is JSON alone.
#: Deeply nested JSON overflows Triton's stack, so neither may be long.
JSON_LENGTH = r"[0-9]{1,4}"
#: A server takes pictures of 64 MiB; a request has a little more than its picture.
MAX_REQUEST_BYTES = 72 * 2**20
#: A description request over gRPC has a model's name.
MAX_DESCRIPTION_BYTES = 1024

#: A replica that cannot be reached within this time is skipped.
CONNECT_TIMEOUT_S = 2
#: The time to an answer.
ANSWER_TIMEOUT_S = 300
#: How many replicas are tried. A request that was sent to one is never sent to another: it may be
#: what killed the first.
ATTEMPTS = 3

#: Texts of refusals, which clients show. `ois_client.transports.failures` looks for "too large".
CLOSED = "this call is closed to clients"
COMPRESSED = "compressed requests are not accepted; send them uncompressed"
TOO_LARGE = "the request is too large"
NO_REPLICA = "no replica answers"
