"""What the measurements on a GPU found, as gpu.json after each part and gpu.md at the end."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .gpu_predicted import predicted

PACKAGES = ("quire", "torch", "triton", "transformers")
ASKED = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")  # of nvidia-smi
Row = dict[str, Any]  # key, and value with unit, or error, or left_out; perhaps note


@dataclass(slots=True)
class Part:
    """One of them. seconds: that it took. ended: what went wrong with it as a whole."""

    name: str
    seconds: float = 0.0
    ended: str = ""
    rows: list[Row] = field(default_factory=list)


class Report:
    """Of one run, in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: list[Part] = []
        self.about = about()

    @property
    def failed(self) -> bool:
        return any(part.ended or any("error" in row for row in part.rows) for part in self.parts)

    def value(self, key: str) -> float | None:
        found = [row["value"] for part in self.parts for row in part.rows if row["key"] == key and "value" in row]
        return found[-1] if found else None

    def add(self, part: Part) -> None:
        """Take it in, and write gpu.json anew."""
        for row in part.rows:
            if (known := predicted(row["key"])) is not None:
                row["predicted"], row["why"] = known
        self.parts.append(part)
        content = {"about": self.about, "parts": [asdict(one) for one in self.parts]}
        (self.folder / "gpu.json").write_text(json.dumps(content, indent=1), encoding="utf-8")

    def write(self) -> Path:
        """gpu.md."""
        path = self.folder / "gpu.md"
        path.write_text("\n".join(self._lines()) + "\n", encoding="utf-8")
        return path

    def _lines(self) -> Iterator[str]:
        yield "# Measured on a GPU"
        yield ""
        for name, said in self.about.items():
            yield f"- {name}: {said}"
        for part in self.parts:
            yield ""
            yield f"## {part.name}, {part.seconds:.0f} s"
            yield ""
            if part.ended:
                yield f"**{part.ended}**"
                yield ""
            if part.rows:
                yield "| what | measured | predicted | why it was | note |"
                yield "| --- | ---: | ---: | --- | --- |"
                for row in part.rows:
                    yield line(row)


def line(row: Row) -> str:
    """Of the table in Markdown."""
    if "value" in row:
        measured = f"{figure(row['value'])} {row['unit']}"
    else:
        measured = f"failed: {row['error']}" if "error" in row else f"not measured: {row['left_out']}"
    cells = (row["key"], measured, row.get("predicted", ""), row.get("why", ""), row.get("note", ""))
    return "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def figure(value: float) -> str:
    """Three digits that count; whole thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratios(report: Report, transformers: Part) -> list[Row]:
    """Quire's tokens a second, which are in the report, by those of transformers, for the longest answers that both had
    time for."""
    theirs = {row["key"]: row for row in transformers.rows if "value" in row}
    found: list[Row] = []
    for key, row in theirs.items():
        if key.startswith("transformers.first."):
            length = key.rpartition(".")[2]
            if (ours := report.value(f"throughput.first.{length}")) is not None:
                note = f"answers of {length} tokens, the same machine, one after the other"
                found = [{"key": "transformers.ratio", "value": ours / row["value"], "unit": "times", "note": note}]
            elif not found:
                found = [{"key": "transformers.ratio", "left_out": f"quire has no rate for answers of {length}"}]
    return found


def read_rows(path: Path) -> list[Row]:
    """What a part has written; the last line may be cut off, where it was ended."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            break
    return found


def about() -> dict[str, str]:
    """Date, machine and versions."""
    found = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "device": _device()}
    found["system"] = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["command"] = " ".join(["python -m quire.clients.bench", *sys.argv[1:]])
    return found


def _device() -> str:
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: nvidia-smi did not say ({type(error).__name__})"
    rows = [[cell.strip() for cell in text.split(",")] for text in done.stdout.strip().splitlines()]
    return "; ".join(", ".join(f"{a} {b}" for a, b in zip(ASKED, row, strict=False)) for row in rows)
