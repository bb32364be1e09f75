"""The OIS paper's Table 3, as far as it could be read; what could not is left out, not guessed.

The paper names neither the device of its timings nor their definition. Its text calls SPC
"average speed per click", so the encode is most likely excluded (`click` here). The table
counts parameters in two ways (SimpleClick's is a tool's figure that omits some of them) and
takes SimpleClick's SPC at 448 and its SAT at 1024 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

CITE = (
    "Paper: order-aware interactive segmentation, Table 3. Its device and its definition of SPC "
    "are not stated. Ratios are given where only they could be read; empty: not read."
)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """contestant: the measured row that the paper's numbers stand beside, if its label has
    `network` in it. The rest are texts, as printed.
    """

    method: str
    contestant: str
    parameters: str = ""
    spc: str = ""
    sat: str = ""
    network: str = ""


TABLE_3 = (
    PaperRow("SimpleClick (448)", "simpleclick-448", "96.46", "55"),
    PaperRow("SimpleClick (1024)", "simpleclick-1024", sat="81.3"),
    PaperRow("SegNext", "segnext-sax2", "113.79", "5.8 × HQ-SAM"),
    PaperRow("HQ-SAM", "hqsam-vitb", "94.81", "10"),
    PaperRow(
        "OIS",
        "ois-torch-unrewritten",
        "107.88",
        "0.53 × SegNext, 3.1 × HQ-SAM",
        "0.45 × SegNext",
        network="ViT-B",
    ),
)
