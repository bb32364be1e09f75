"""The wire format of `ois_segment` and `ois_oneshot`: NumPy arrays in, NumPy arrays out, no I/O.

`schema.py` describes the format, `request.py` and `reply.py` write and read it, and `errors.py`
puts typed errors into text.
"""

from ois_client.wire.errors import (
    error_from_text,
    error_text,
    triton_code,
)
from ois_client.wire.reply import (
    ReplyInfo,
    read_click_reply,
    read_encode_reply,
    read_info,
    write_reply,
)
from ois_client.wire.request import (
    Call,
    Message,
    check_objects,
    click_message,
    encode_message,
    info_message,
    oneshot_message,
    read_call,
)
from ois_client.wire.schema import (
    CONTRACT,
    DIGEST_HEADER,
    INPUTS,
    MODEL,
    ONESHOT_INPUTS,
    ONESHOT_MODEL,
    OUTPUTS,
    PARAMETERS,
    TOKEN_HEADER,
    WANTS,
    Tensors,
    WireTensor,
    mask_format_name,
)

__all__ = [
    "CONTRACT",
    "DIGEST_HEADER",
    "INPUTS",
    "MODEL",
    "ONESHOT_INPUTS",
    "ONESHOT_MODEL",
    "OUTPUTS",
    "PARAMETERS",
    "TOKEN_HEADER",
    "WANTS",
    "Call",
    "Message",
    "ReplyInfo",
    "Tensors",
    "WireTensor",
    "check_objects",
    "click_message",
    "encode_message",
    "error_from_text",
    "error_text",
    "info_message",
    "mask_format_name",
    "oneshot_message",
    "read_call",
    "read_click_reply",
    "read_encode_reply",
    "read_info",
    "triton_code",
    "write_reply",
]
