"""The real `supervision` reads our records, in an environment of its own: it wants NumPy 2."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from support.documents import ROOT
from support.environments import environment
from support.tiny_engines import write_engines

#: What a user of SamAutomaticMaskGenerator and supervision writes, with the import replaced.
SCRIPT = """
import json, sys
import numpy as np
import supervision as sv
from ois_client import OISAutomaticMaskGenerator as SamAutomaticMaskGenerator, OISModel

image = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
sam = OISModel(sys.argv[1])
generator = SamAutomaticMaskGenerator(sam, points_per_side=4, crop_n_layers=0)
records = generator.generate(image)
detections = sv.Detections.from_sam(sam_result=records)
shown = sv.MaskAnnotator(color_lookup=sv.ColorLookup.INDEX).annotate(image.copy(), detections)
largest_first = sorted(records, key=lambda record: record["area"], reverse=True)
masks = np.stack([record["segmentation"] for record in largest_first])
x, y, w, h = np.array([record["bbox"] for record in largest_first]).T
print(json.dumps({
    "numpy": np.__version__, "supervision": sv.__version__, "objects": len(detections),
    "masks": bool((detections.mask == masks).all()),
    "boxes": bool((detections.xyxy == np.stack([x, y, x + w, y + h], axis=1)).all()),
    "area": bool((detections.area == masks.sum(axis=(1, 2))).all()),
    "drawn": bool((shown != image).any()),
    "empty": len(sv.Detections.from_sam(sam_result=[])),
}))
"""


def test_supervision_takes_the_records(tmp_path: Path) -> None:
    python = environment("supervision", "supervision==0.31.*", "-e", f"{ROOT}[cpu]")
    engines = write_engines(tmp_path / "engines")
    ran = subprocess.run(
        [str(python), "-c", SCRIPT, f"local:{engines}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["objects"] > 1
    assert seen["supervision"].startswith("0.31.")
    assert {name: seen[name] for name in ("masks", "boxes", "area", "drawn")} == dict.fromkeys(
        ("masks", "boxes", "area", "drawn"), True
    )
    assert seen["empty"] == 0
