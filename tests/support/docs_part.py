"""A part of a page of the docs that a run of the tests writes: what stands between two marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True, slots=True)
class Part:
    page: str
    begin: str
    end: str

    def read(self) -> str:
        text = (DOCS / self.page).read_text(encoding="utf-8")
        return text[text.index(self.begin) + len(self.begin) : text.index(self.end)].strip()

    def write(self, found: str) -> None:
        text = (DOCS / self.page).read_text(encoding="utf-8")
        head, tail = text[: text.index(self.begin) + len(self.begin)], text[text.index(self.end) :]
        (DOCS / self.page).write_text(f"{head}\n{found}\n\n{tail}", encoding="utf-8")
