"""How `ois bench quality` sorts the worst objects."""

from __future__ import annotations

from enum import StrEnum


class Order(StrEnum):
    """Key in results and in the command, and the heading of the table."""

    heading: str

    IOU = ("iou", "worst objects")
    AREA = ("area", "worst objects, smallest first")
    THINNESS = ("thinness", "worst objects, thinnest first")
    CLICKS = ("clicks", "worst objects, most clicks first")

    def __new__(cls, value: str, heading: str) -> Order:
        member = str.__new__(cls, value)
        member._value_ = value
        member.heading = heading
        return member

    @classmethod
    def named(cls, value: str) -> Order:
        """The order called `value` in a result; IOU for an unknown one."""
        return next((order for order in cls if order.value == value), cls.IOU)
