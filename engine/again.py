"""A step that failed as a whole is run again, such that as few sequences as can be are hurt by it.

What was written of keys and values before may be written twice: the same values go to the same places. A step for which
memory was short is cut to half of its tokens, until it fits: the youngest sequences give up their pages and come back
later, to the same tokens, and for a while steps stay so small (scheduler.shrink). Who fails alone ends, and the others
go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import faults, scheduler
from .plan import Outcome, Plan, Slice, StepResult
from .state import State

log = logging.getLogger("quire.engine")

Execute = Callable[[Plan], StepResult]


def run(execute: Execute, state: State, plan: Plan, error: Exception) -> StepResult:
    """What comes of `plan`, which failed with `error`: outcomes in its order, empty ones of those that were preempted.

    Raises the error itself where the device is lost: nothing that this process does would succeed.
    """
    kept = plan.slices
    while faults.short_of_memory(error) and sum(len(piece.tokens) for piece in kept) > 1:
        kept = _smaller(state, kept, error)
        log.warning(
            "memory is short for a step of %d tokens (%s): %d of its %d sequences run again, the others wait, and "
            "steps have up to %d tokens for now",
            plan.num_tokens, faults.words(error), len(kept), len(plan.slices), state.budget,
        )  # fmt: skip
        try:
            return _spread(plan, kept, execute(Plan(kept)).outcomes if kept else [])
        except Exception as more:
            error = more
    if faults.lost(error) is not None:
        raise error
    log.error("a step of %d sequences failed; trying them one by one", len(kept), exc_info=error)
    faults.let_go(error)
    return _spread(plan, kept, [_alone(execute, state, piece) for piece in kept])


def _alone(execute: Execute, state: State, piece: Slice) -> Outcome:
    try:
        return execute(Plan([piece])).outcomes[0]
    except Exception as error:
        if faults.lost(error) is not None:
            raise
        if faults.short_of_memory(error) and not _smaller(state, [piece], error):
            return Outcome()  # it comes back in smaller parts
        return Outcome(error=f"the engine failed on this request: {faults.words(error)}")


def _smaller(state: State, slices: list[Slice], error: Exception) -> list[Slice]:
    faults.let_go(error)
    return scheduler.shrink(state, slices)


def _spread(plan: Plan, kept: list[Slice], outcomes: list[Outcome]) -> StepResult:
    found = {id(piece): outcome for piece, outcome in zip(kept, outcomes, strict=True)}
    return StepResult([found.get(id(piece)) or Outcome() for piece in plan.slices])
