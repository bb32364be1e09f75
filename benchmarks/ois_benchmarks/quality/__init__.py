"""Quality of segmentation under the clicks of a robot user: NoC, NoF and mIoU."""
