"""Clicked pixels are right: a correction of the mask logits, only where a click was not followed.

A network learns to follow clicks, but nothing forces it to: whoever clicks on a missing detail of a
few pixels may get the same mask again. With `keep_clicks` (*ours*), each click whose pixel came out
on the wrong side adds a narrow Gaussian to the logits, just high enough. Clicks that were followed
add nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ois_client.contract.clicks import POSITIVE
from ois_network.order import sample_bilinear
from ois_network.prompt_encoders import gaussians

#: Standard deviation of the Gaussians, network pixels.
_DEVIATION = 2.0
#: What a clicked pixel's logit is at least, with the click's sign.
_MARGIN = 0.5
#: Between four pixels, an interpolated Gaussian is lower than its peak: 0.94 at worst.
_GAIN = 1.1


def keep_clicks(logits: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """logits (N, h, w), points (N, 48, 2) network pixels, labels (N, 48) -> logits (N, h, w).

    Interpolated at a click, the result has the click's sign, unless clicks of both signs are less
    than a few pixels apart.
    """
    height, width = logits.shape[1:]
    sign = torch.where(labels == POSITIVE, 1.0, -1.0).to(logits.dtype)
    missing = F.relu(_MARGIN - sign * sample_bilinear(logits, points))
    amplitude = _GAIN * sign * missing * (labels >= 0).to(logits.dtype)  # (N, 48)
    along_x = gaussians(points[..., 0], width, _DEVIATION)
    along_y = gaussians(points[..., 1], height, _DEVIATION) * amplitude.unsqueeze(2)
    return logits + along_y.transpose(1, 2) @ along_x
