"""Make pocket: `python -m quire.pocket.recipe --preset cpu`.

Every step leaves its result in the work folder, and is skipped where that is there; training goes on from its last
checkpoint. So the same command again resumes whatever was cut short.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...engine.errors import ConfigError, QuireError
from ...engine.machine import physical_cores, pick_device
from ...engine.process import settle
from .. import HERE, MANIFEST
from . import adapters, card, draft, evaluate, export, steps
from .presets import PRESETS, bounded, continued
from .steps import Run
from .styles import STYLES


def _evaluate(run: Run) -> None:
    evaluate.evaluate(run)
    card.write(run)


STEPS: dict[str, Callable[[Run], None]] = {
    "corpus": steps.corpus,
    "tokenizer": steps.make_tokenizer,
    "train": steps.train,
    "draft": draft.train,
    "adapters": adapters.train,
    "export": export.export,
    "evaluate": _evaluate,
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m quire.pocket.recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--preset", choices=list(PRESETS), required=True)
    p.add_argument(
        "--shared", type=Path, default=HERE.parent.parent / "shared" / "data", help="the folder that holds train/"
    )
    p.add_argument("--work", type=Path, default=Path("pocket-work"), help="what is between the steps [pocket-work]")
    p.add_argument("--out", type=Path, default=HERE, help="where model/, draft/ and adapters/ go [the package]")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--from", dest="start", type=Path, help="a finished model/ whose training goes on, on other data")
    bound = p.add_mutually_exclusive_group()
    bound.add_argument("--minutes", type=float, help="of the base's training, instead of the preset's bound")
    bound.add_argument("--steps", type=int, help="of the base's training, where others use the machine too")
    p.add_argument("--threads", type=int, help="CPU threads of training [the physical cores]")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make data")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--only", choices=list(STEPS), help="this step alone")
    p.add_argument("--force", action="store_true", help="begin anew, over a finished model too")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        preset = PRESETS[args.preset] if args.start is None else continued(PRESETS[args.preset], args.start)
        if args.minutes is not None or args.steps is not None:
            preset = bounded(preset, minutes=args.minutes, steps=args.steps)
        device = pick_device(args.device)
        torch.set_num_threads(args.threads or physical_cores())
        settle()
        run = Run(args.preset, preset, args.shared, args.work, args.out, args.seed, args.workers, device, args.start)
        perform(run, [args.only] if args.only else list(STEPS), force=args.force)
    except (QuireError, FileNotFoundError) as error:
        print(f"recipe: {error}", file=sys.stderr)
        return 1
    return 0


def perform(run: Run, wanted: list[str], force: bool) -> None:
    """The wanted steps that are not done. force: all of them, from nothing. Raises ConfigError where they would
    overwrite a finished model, or where the work folder belongs to another run."""
    mark = f"{run.name} {run.seed}"
    due = []
    for step in wanted:
        done = _mark(run, step)
        if not force and done.is_file():
            if (found := done.read_text(encoding="utf-8")) != mark:
                raise ConfigError(
                    "--work", f"{run.work} holds the {step} of run {found!r}", f"that of {mark!r}, or --force"
                )
            continue
        due.append(step)
    if not force and "export" in due and (run.out / "model" / MANIFEST).is_file():
        raise ConfigError("--out", f"{run.out} holds a finished model", "an empty folder, or --force")
    if force:
        for step in due:
            _mark(run, step).unlink(missing_ok=True)
            _forget(run, step)
    (run.work / "done").mkdir(parents=True, exist_ok=True)
    for step in wanted:
        if step not in due:
            print(f"{step}: done before", file=sys.stderr)
            continue
        began = time.monotonic()
        print(f"{step}: begins", file=sys.stderr, flush=True)
        STEPS[step](run)
        _mark(run, step).write_text(mark, encoding="utf-8")
        print(f"{step}: took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _mark(run: Run, step: str) -> Path:
    return run.work / "done" / step


LEFT = {  # step -> what it leaves in the work folder
    "corpus": ["corpus"],
    "tokenizer": ["tokenizer", "corpus/*/*/"],
    "train": ["base.pt", "base.svg"],
    "draft": ["draft.pt", "draft.svg"],
    "adapters": ["adapters", *(f"{name}.*" for name in STYLES)],
}


def _forget(run: Run, step: str) -> None:
    for pattern in LEFT.get(step, ()):
        for path in run.work.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
