"""Quality: the robot user, NoC, NoF and mIoU."""
