"""The wire: what travels to and from the model `ois_segment`, as NumPy arrays, no I/O.

    request   DIGEST       BYTES [1]          sha256 of the picture (`Picture.digest`)
              IMAGE        UINT8 [bytes]      the picture: an encoded file, or raw samples
              IMAGE_SHAPE  INT32 [3]          only with raw samples: (H, W, C), C = 1 or 3
              POINTS       FP32  [N, P, 2]    (x, y) in image pixels
              LABELS       INT32 [N, P]       1 positive, 0 negative, -1 no click
              COVERAGE     UINT8 [N, gh, gw]  of the previous masks
              HAS_PREVIOUS BOOL  [N]
    reply     INFO         BYTES [1]          JSON, see `ReplyInfo`
              MASKS        UINT8 [bytes]      N encoded masks, one after another
              MASK_SIZES   INT64 [N]          bytes of each
              NEW_COVERAGE UINT8 [N, gh, gw]  of the new masks
              DEPTH        FP32  [h, w]       on request
              LOGITS       FP32  [N, h, w]    on request
              ORDER        FP32  [K, h, w]    on request, see `ClickReply.order`

Every input is optional: without POINTS the image is only encoded, with nothing at all the
server only describes itself. What does not apply comes back empty. Parameters of a request:

    ois_contract     "1"; another number is refused
    ois_mask_format  packed (default), png, coco_rle, coco_counts
    ois_want         comma list of depth, logits, order
    ois_session      an opaque id for the server's log

Two headers go with it: `ois-image-digest`, so that a load balancer can send an image's clicks to
the replica that has its features, and `authorization` with the token, where one is needed.

BYTES tensors are object arrays of `bytes`, as Triton's Python packages have them.
Errors travel as text: `wire_errors.py`.
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
    read_call,
)
from ois_client.wire.schema import (
    CONTRACT,
    DIGEST_HEADER,
    INPUTS,
    MODEL,
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
    "read_call",
    "read_click_reply",
    "read_encode_reply",
    "read_info",
    "triton_code",
    "write_reply",
]
