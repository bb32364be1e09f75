"""The demo's photographs, which travel with this package, and clicks chosen by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ois_cli.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Photograph:
    """file: name among the sample photographs. points: two that add, one that removes."""

    file: str
    subject: str
    points: tuple[str, str, str]

    @property
    def name(self) -> str:
        return Path(self.file).stem

    @property
    def path(self) -> Path:
        from ois_export.parity.cases import photo_folder

        return photo_folder() / self.file

    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(Prompt.parse(point) for point in self.points)


PHOTOGRAPHS = (
    Photograph("astronaut.jpg", "the astronaut", ("220,110", "130,310", "430,440,-")),
    Photograph("chelsea.jpg", "the cat", ("245,150", "60,200", "425,90,-")),
    Photograph("coffee.jpg", "the cup", ("290,60", "250,215", "110,250,-")),
    Photograph("rocket.jpg", "the rocket", ("321,290", "321,150", "190,250,-")),
)
