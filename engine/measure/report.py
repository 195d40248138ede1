"""Rows of what was measured, and where it is measured."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("quire.engine")


@dataclass(frozen=True, slots=True)
class Place:
    """models: the folder of the model folders. tiny: all sizes are small ones."""

    models: Path
    device: torch.device
    tiny: bool

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"


class Report:
    """Appends rows to a file. A row has `key` and either `value` with `unit`, or `error`, or `left_out`."""

    def __init__(self, out: Path, seconds: float):
        self._out = out
        self._end = time.monotonic() + seconds
        self.failed = False

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def row(self, key: str, value: float, unit: str, note: str = "") -> None:
        self._write(key, value=value, unit=unit, **({"note": note} if note else {}))

    def lacks(self, key: str, why: str) -> None:
        """What cannot be measured here, or was not."""
        self._write(key, left_out=why)

    def attempt(self, key: str, measure: Callable[[], Any]) -> Any:
        """Do it if there is time. What fails or is refused is a row, and None is returned."""
        if self.left <= 0:
            self.lacks(key, "the time was over")
            return None
        try:
            return measure()
        except ConfigError as refused:
            self.lacks(key, f"refused: {refused}")
            return None
        except Exception as error:
            log.exception("%s failed", key)
            said = (str(error).strip().splitlines() or [""])[-1][:300]
            self._write(key, error=f"{type(error).__name__}: {said}")
            self.failed = True
            return None

    def _write(self, key: str, **fields: Any) -> None:
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **fields}) + "\n")
