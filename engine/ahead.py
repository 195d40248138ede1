"""The step behind one whose tokens are not known yet: pure functions of State, of which only scheduler.py changes more.

A step that flies is under way on the device, and the host goes on as if it had been committed (`foresee`): what it
computes counts as computed, and each sequence that it samples has one token more, which only the device knows. In
`Sequence.tokens` that token is the number -1 - r: row r of the tokens that the flying step samples. So the step behind
it is scheduled like any other, and says to the device where to find what it continues. When the flying step lands,
`settle` takes that back, and it is committed like any other. At most one step flies while the next is scheduled, so a
sequence has at most one such token, its last.

A sequence may turn out to have ended in the step that lands: by a stop token, an error, or because it was aborted. Its
slice of the step behind, which is on its way by then, is computed for nothing, and commit passes over it. What that
slice writes goes to a place behind all that was computed of the sequence, in a page that is its own and never found by
its hash. Its pages may go to others at once: the device works in the order of the launches, so what their new holder
writes is written later, and no one reads a place of a page before it has written it.
"""

from __future__ import annotations

from dataclasses import replace

from . import scheduler
from .messages import SamplingParams
from .plan import Plan
from .sequence import Sequence, Status
from .state import State

# Options that keep a sequence on the ground, where they are not at their defaults.
GROUNDED = (
    # They look at the text, or remember each token, and so wait for the last one.
    "bad_words", "repetition_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier", "mirostat",
    # More than a token is read of each row.
    "logprobs", "prompt_logprobs",
    # They are made of numbers that the host reads, or sends, in mid-step: nothing is gained.
    "top_n_sigma", "typical_p", "xtc_probability", "min_tokens",
)  # fmt: skip
_OFF = SamplingParams(max_tokens=0, seed=0)
_DEFAULTS = tuple((name, getattr(_OFF, name)) for name in GROUNDED)


def flies(plan: Plan) -> bool:
    """Whether a step may be launched before the one in front of it has landed, and nothing be read of it before the
    next is launched: whether the host is not needed in between, by any of its sequences."""
    if not plan.slices:
        return False
    for piece in plan.slices:
        seq = piece.seq
        if seq.plain is None:
            seq.plain = _plain(seq)
        if not seq.plain or piece.drafts:
            return False
    return True


def _plain(seq: Sequence) -> bool:
    """Of what stays the same as long as a sequence lives. A prediction is a guess that is always worth a try."""
    params = seq.params
    return seq.guide is None and not seq.prediction and all(getattr(params, name) == off for name, off in _DEFAULTS)


def schedule(state: State) -> Plan:
    """The step behind the one that is foreseen. Without slices, and with the state as it was, where there is nothing to
    run, or somebody might have to give up pages: those of a sequence whose last token nobody knows."""
    size = state.limits.block_size
    wanted = sum((len(s.tokens) + len(s.drafts)) // size + 1 - len(s.blocks) for s in state.running)
    if wanted > len(state.pool.free) or not state.lanes.calm:
        return Plan([])
    plan = scheduler.schedule(state)
    assert not plan.preempted, "pages were taken from a sequence that flies"
    # Who has its last token in the step that flies has nothing left to compute.
    return replace(plan, slices=[piece for piece in plan.slices if piece.tokens])


def foresee(plan: Plan) -> None:
    """The step has been launched: go on as if it had given each sequence that it samples a token."""
    row = 0
    for piece in plan.slices:
        seq = piece.seq
        row += piece.sample
        if seq.status is not Status.RUNNING:
            continue  # it ended in the step before, which landed after this one was launched
        seq.computed = piece.end
        if piece.sample and len(seq.tokens) + 1 < seq.end:  # else that token is its last, and nothing comes behind
            seq.tokens.append(-row)


def settle(plan: Plan) -> None:
    """The step lands: its sequences are as they were when it was scheduled, but for pages that they have got since."""
    for piece in plan.slices:
        seq = piece.seq
        if seq.status is Status.RUNNING:
            seq.computed = piece.start
            if seq.tokens[-1] < 0:
                seq.tokens.pop()


def known(plan: Plan) -> Plan:
    """A step that was scheduled while another flew, and was not launched, once that has landed and been committed: with
    the tokens as they came, and without who ended."""
    slices = [piece for piece in plan.slices if piece.seq.status is Status.RUNNING]
    for piece in slices:
        if piece.tokens[-1] < 0:
            piece.tokens[-1] = piece.seq.tokens[-1]
    return replace(plan, slices=slices)


def drop(state: State, plan: Plan) -> Plan:
    """A step that was scheduled while another flew comes to nothing, as that one failed: what both would have computed
    is scheduled again, and gets its pages then. Returns the empty step; who left is told with the next."""
    for seq in state.running:
        keep = -(-seq.computed // state.limits.block_size)
        state.pool.release(seq.blocks[keep:])
        del seq.blocks[keep:]
    state.left[:0] = plan.freed
    return Plan([])
