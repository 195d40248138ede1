"""One part of the measurements: `python -m quire.engine.measure PART --models FOLDER --out FILE`.

Each row is appended to FILE as it is known, a JSON object a line, so what was found stays if the process is ended.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from . import PARTS
from .report import Place, Report


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m quire.engine.measure", description=__doc__.splitlines()[0])
    p.add_argument("part", choices=PARTS)
    p.add_argument("--models", type=Path, required=True, help="folder of the model folders")
    p.add_argument("--out", type=Path, required=True, help="file that rows are appended to")
    p.add_argument("--device", default="auto")
    p.add_argument("--tiny", action="store_true", help="sizes that a CPU does in a second")
    p.add_argument("--seconds", type=float, default=60.0, help="nothing is begun after so many [60]")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    measure = importlib.import_module(f".{PARTS[args.part]}", __package__).measure
    from ..machine import pick_device

    try:
        place = Place(args.models, pick_device(args.device), args.tiny)
    except ConfigError as error:
        print(f"measure: {error}", file=sys.stderr)
        return 1
    if place.device.index is not None:
        import torch

        torch.cuda.set_device(place.device)
    report = Report(args.out, args.seconds)  # its time begins once everything is imported
    report.attempt(args.part, lambda: measure(report, place))
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
