"""What runs next, and what came of it: pure functions of State.

There is no prefill phase and no decode phase. A sequence has `tokens`, of which `computed` are in pages; each step lets
`computed` catch up with `len(tokens) + len(drafts)` under one token budget. A chunk of a long prompt, a prefix-cache
hit, a draft to verify and a preempted sequence that starts over are all the same case.

The order of a step: sequences that are all but caught up (decodes) first, so that no prompt however long makes a
stream wait; then prompts under way; then new ones, most senior first and never past one that does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from . import messages as m
from .blocks import chain_hash, root_hash
from .errors import ContextLengthExceeded, Overloaded, RequestError
from .plan import Outcome, Plan, Slice, StepResult
from .sequence import Sequence, Status
from .state import State, seniority

if TYPE_CHECKING:
    from .guides import Guide
    from .lora.adapter import Adapter


def add(state: State, request: m.Generate, guides: Seq[Guide] = (), adapter: Adapter | None = None) -> None:
    """Queue a request; guides: one for each answer, where a grammar binds them. Raises what the person must know if it
    can never run or the queue is full."""
    limits, params = state.limits, request.params
    if not request.prompt:
        raise RequestError("the prompt has no tokens; at least one is needed", param="prompt")
    if request.id in state.requests:
        raise RequestError(f"the request id {request.id!r} is in use", param="id")
    longest = len(request.prompt) + params.max_tokens
    if longest > limits.max_model_len:
        raise ContextLengthExceeded(
            f"prompt ({len(request.prompt)} tokens) plus max_tokens ({params.max_tokens}) is {longest}; "
            f"a sequence may have {limits.max_model_len}"
        )
    if longest > state.pool.size * limits.block_size:
        raise ContextLengthExceeded(
            f"{longest} tokens can never fit: the page pool holds {state.pool.size * limits.block_size}"
        )
    if state.num_waiting() + request.n > limits.max_waiting:
        raise Overloaded(f"{state.num_waiting()} sequences are waiting; at most {limits.max_waiting} may")
    state.arrivals += 1
    group: list[Sequence] = []
    for index in range(request.n):
        group.append(
            Sequence(
                request.id,
                index,
                request.prompt,
                params,
                priority=request.priority,
                arrival=state.arrivals,
                salt=request.cache_salt,
                leader=group[0] if group else None,
                guide=guides[index] if guides else None,
                adapter=adapter,
                weight=request.weight,
                prediction=request.prediction,
            )
        )
    state.requests[request.id] = group[:]
    state.enqueue(group[0])
    if len(group) > 1:
        state.siblings[group[0].id] = group[1:]


def abort(state: State, request: str) -> None:
    """Forget a request; its pages are free when this returns. An unknown id is no error: it may have just finished."""
    for seq in state.requests.get(request, [])[:]:
        _leave(state, seq)


# ---------------------------------------------------------------- schedule


def schedule(state: State) -> Plan:
    """The next step. Empty slices: there is nothing to do."""
    budget = state.budget
    if budget < state.limits.max_num_batched_tokens:
        budget = state.regain()
    room, running = state.limits.block_size, Status.RUNNING
    slices: list[Slice] = []
    behind: list[Sequence] = []
    admitted: list[Sequence] = []
    preempted = state.lanes.turn(state.running)
    for seq in preempted:
        _preempt(state, seq)
    for seq in state.running[:]:
        start, drafts = seq.computed, seq.drafts
        due = len(seq.tokens) + len(drafts)
        lag = due - start - len(drafts)
        if (lag > 1 and (lag > room or start < seq.prompt_len)) or due - start > budget:
            behind.append(seq)
            continue
        if seq.status is not running:
            continue
        if due > len(seq.blocks) * room and not _grow_for_decode(state, seq, preempted):
            continue
        tokens = seq.tokens[start:]
        if drafts := seq.drafts:  # read again: to grow may have cost them
            tokens += drafts
        wanted = seq.params.max_tokens > 0  # else this is the last token of a prompt, alone
        slices.append(Slice(seq, start, tokens, len(drafts), wanted, seq.parents if drafts else ()))
        budget -= len(tokens)
    reach = 0
    if slices:  # no stream waits longer than so many tokens take; at least as many as there are streams, to keep up
        budget, reach = min(budget, max(state.limits.prompt_chunk, len(slices))), state.limits.reach
    scheduled = {id(s.seq) for s in slices} if behind else set()
    for seq in behind:
        if budget and seq.status is Status.RUNNING:
            piece = _chunk(state, seq, _tokens(budget, seq.computed, reach), scheduled, preempted)
            if piece is None:
                continue
            slices.append(piece)
            scheduled.add(id(seq))
            budget -= _cost(len(piece.tokens), piece.start, budget, reach)
    promised = sum(_pages_to_come(state, seq) for seq in behind) if state.waiting else 0
    while budget and not preempted and state.waiting and len(state.running) < state.limits.max_num_seqs:
        head = state.lanes.next(state.waiting)
        if head is None or not _admit(state, head, promised):
            break
        seq = head
        piece = _chunk(state, seq, _tokens(budget, seq.computed, reach), scheduled, preempted)
        assert piece is not None, "admitted without a page to run in"
        slices.append(piece)
        admitted.append(seq)
        budget -= _cost(len(piece.tokens), piece.start, budget, reach)
        promised += _pages_to_come(state, seq)
    state.lanes.charge(slices)
    left, state.left = state.left, []
    return Plan(slices, admitted, preempted, left)


def _tokens(budget: int, start: int, reach: int) -> int:
    """Of a prompt from `start` on, that take as long as `budget` tokens at its beginning: the more context, the fewer.
    reach: of Limits; 0: tokens are counted alone."""
    return -(-budget * reach // (reach + start)) if reach else budget


def _cost(tokens: int, start: int, budget: int, reach: int) -> int:
    """What they take of that budget."""
    return min(budget, tokens + tokens * start // reach) if reach else tokens


def _grow_for_decode(state: State, seq: Sequence, preempted: list[Sequence]) -> bool:
    """Give `seq` the pages of its next tokens, at the cost of the youngest. False: it was the youngest itself."""
    size = state.limits.block_size
    while (need := -(-(len(seq.tokens) + len(seq.drafts)) // size) - len(seq.blocks)) > len(state.pool.free):
        if seq.drafts:
            seq.drafts = []  # a guess is not worth another's pages
            continue
        victim = state.running[-1]
        _preempt(state, victim)
        preempted.append(victim)
        if victim is seq:
            return False
    seq.blocks.extend(state.pool.take() for _ in range(need))
    return True


def _chunk(state: State, seq: Sequence, budget: int, scheduled: set[int], preempted: list[Sequence]) -> Slice | None:
    """As much of a sequence that lies behind as budget and pages allow. None: it waits for a step.

    Where not one page is free, the youngest gives its pages up, unless it runs in this very step: then the step itself
    is progress.
    """
    size, start = state.limits.block_size, seq.computed
    total = len(seq.tokens) + len(seq.drafts)
    end = min(total, start + budget)
    while end > len(seq.blocks) * size and not state.pool.free:
        if len(seq.blocks) * size > start:
            break
        victim = state.running[-1]
        if victim is seq or id(victim) in scheduled:
            return None
        _preempt(state, victim)
        preempted.append(victim)
    missing = -(-end // size) - len(seq.blocks)
    seq.blocks.extend(state.pool.take() for _ in range(min(missing, len(state.pool.free))))
    end = min(end, len(seq.blocks) * size)
    whole = end == total
    drafts = seq.drafts if whole else []
    if not whole and end >= len(seq.tokens):
        end = len(seq.tokens)  # drafts are verified together or not at all
        seq.drafts, whole = [], True
    tokens = seq.tokens[start : end - len(drafts)] + drafts
    return Slice(seq, start, tokens, len(drafts), whole and seq.params.max_tokens > 0, seq.parents if drafts else ())


def _pages_to_come(state: State, seq: Sequence) -> int:
    """Pages that a sequence will still take until it is caught up and has begun its next one."""
    return len(seq.tokens) // state.limits.block_size + 1 - len(seq.blocks)


def _admit(state: State, seq: Sequence, promised: int) -> bool:
    """Let the head of the queue run if all of it fits beside what is promised and a next page for everyone who runs."""
    size, pool = state.limits.block_size, state.pool
    hits = _find_prefix(state, seq)
    need = _pages_to_come(state, seq) - len(hits) + sum(pool.refs[b] == 0 for b in hits)
    if state.running and need + promised + len(state.running) > len(pool.free):
        return False
    for block in hits:
        pool.share(block)
    seq.blocks = hits
    seq.computed, seq.published = len(hits) * size, len(hits)
    if not seq.preemptions and seq.leader is None:
        seq.cached_tokens = seq.computed
        state.prompt_tokens += seq.prompt_len
        state.prefix_queries += seq.prompt_len
        state.prefix_hits += seq.computed
    state.dequeue(seq)
    state.begin(seq)
    return True


def _find_prefix(state: State, seq: Sequence) -> list[int]:
    """Pages that hold the first tokens of `seq`; the last token is always computed anew, for its logits."""
    if not state.prefix_caching or seq.owes_prompt_logprobs:
        return []
    hits: list[int] = []
    for i in range((len(seq.tokens) - 1) // state.limits.block_size):
        block = state.pool.block_of.get(_page_hash(state, seq, i))
        if block is None:
            break
        hits.append(block)
    return hits


def _page_hash(state: State, seq: Sequence, page: int) -> bytes:
    """Chained hash of a full page of `seq`, each computed once in its life."""
    size, hashes = state.limits.block_size, seq.hashes
    while len(hashes) <= page:
        i = len(hashes)
        previous = hashes[i - 1] if i else root_hash(seq.salt, seq.adapter.key if seq.adapter else "")
        hashes.append(chain_hash(previous, seq.tokens[i * size : (i + 1) * size]))
    return hashes[page]


def _preempt(state: State, seq: Sequence) -> None:
    """Take all pages from `seq`; it keeps its tokens and starts over when its turn comes."""
    state.stop(seq)
    _drop_pages(state, seq)
    seq.drafts = []
    seq.preemptions += 1
    state.preemptions += 1
    state.enqueue(seq)


def shrink(state: State, slices: list[Slice]) -> list[Slice]:
    """Memory was short for these slices of a step: what is left of them, with half the tokens at most. The youngest
    sequences go; steps have no more tokens than that until `State.regain` gives them back. One token stays."""
    tokens = sum(len(piece.tokens) for piece in slices)
    state.limit(max(1, tokens // 2))
    kept = slices[:]
    for piece in sorted(slices, key=lambda piece: seniority(piece.seq), reverse=True):
        if tokens <= state.budget:
            break
        kept.remove(piece)
        tokens -= len(piece.tokens)
        _preempt(state, piece.seq)
    return kept


def _drop_pages(state: State, seq: Sequence) -> None:
    state.pool.release(seq.blocks)
    seq.blocks = []
    seq.computed = seq.published = 0


# ---------------------------------------------------------------- commit


def commit(state: State, plan: Plan, result: StepResult) -> list[m.TokenDelta | m.Failed]:
    """Take in what the step gave; returns the news, one message a sequence that has any."""
    news: list[m.TokenDelta | m.Failed] = []
    caching, size, siblings, running = state.prefix_caching, state.limits.block_size, state.siblings, Status.RUNNING
    for piece, outcome in zip(plan.slices, result.outcomes, strict=True):
        seq = piece.seq
        if seq.status is not running:
            continue  # aborted, or its request failed, while the step ran
        if outcome.error is not None:
            news.append(m.Failed(id=seq.request, code=outcome.code, message=outcome.error, param=outcome.param))
            abort(state, seq.request)
            continue
        finish = _accept(state, piece, outcome) if piece.sample else _advance(piece)
        if caching and seq.computed // size > seq.published:
            _publish(state, seq)
        if delta := _delta(piece, outcome, finish):
            news.append(delta)
        if finish:
            _leave(state, seq)
        elif siblings and seq.id in siblings and seq.computed >= seq.prompt_len:
            _wake_siblings(state, seq)
    return news


def _advance(piece: Slice) -> m.FinishReason | None:
    """A chunk of the prompt is in its pages."""
    seq = piece.seq
    seq.computed = piece.end
    return "length" if seq.params.max_tokens == 0 and seq.computed == seq.prompt_len else None


def _accept(state: State, piece: Slice, outcome: Outcome) -> m.FinishReason | None:
    """Append accepted drafts, the sampled token and what must follow; roll back by count what was not accepted."""
    seq, new = piece.seq, outcome.tokens
    # Of what was computed, this is kept. Tokens that a grammar makes late were drafts of an earlier step, not of this.
    seq.computed = piece.end - piece.drafts + min(len(new) - 1, piece.drafts)
    if outcome.forced:
        new += outcome.forced
    room = seq.end - len(seq.tokens)
    if len(new) > room:
        del new[room:]
    finish: m.FinishReason | None = "length" if len(new) == room else None
    if stops := seq.params.stop_token_ids:
        for i, token in enumerate(new):
            if token in stops:
                del new[i + 1 :]
                finish = "stop"
                break
    seq.tokens += new
    state.generated_tokens += len(new)
    if finish:
        seq.computed = min(seq.computed, len(seq.tokens) - 1)  # the answer may end before the last draft
    seq.drafts, seq.parents = outcome.drafts, outcome.parents
    if piece.drafts:
        keep = -(-seq.computed // state.limits.block_size)
        state.pool.release(seq.blocks[keep:])
        del seq.blocks[keep:]
    return finish


def _publish(state: State, seq: Sequence) -> None:
    full = seq.computed // state.limits.block_size
    for i in range(seq.published, full):
        state.pool.publish(seq.blocks[i], _page_hash(state, seq, i))
    seq.published = full


def _delta(piece: Slice, outcome: Outcome, finish: m.FinishReason | None) -> m.TokenDelta | None:
    """The message for what a slice added; None if nothing of it is news."""
    seq = piece.seq
    if seq.announced and outcome.tokens and not finish and outcome.logprobs is outcome.prompt_logprobs is None:
        return m.TokenDelta(
            id=seq.request, index=seq.index, tokens=outcome.tokens, guided=outcome.guided, predicted=outcome.predicted,
            guesses=outcome.guesses,
        )  # nearly all are so  # fmt: skip
    prompt_logprobs = None
    if outcome.prompt_logprobs is not None:
        fresh = outcome.prompt_logprobs[max(0, seq.prompt_logprobs_sent - piece.start) :]
        seq.prompt_logprobs_sent += len(fresh)
        prompt_logprobs = fresh or None
    if not (outcome.tokens or finish or prompt_logprobs):
        return None
    first, seq.announced = not seq.announced, True
    return m.TokenDelta(
        id=seq.request,
        index=seq.index,
        tokens=outcome.tokens,
        logprobs=outcome.logprobs[: len(outcome.tokens)] if outcome.logprobs is not None else None,
        prompt_logprobs=prompt_logprobs,
        cached_tokens=seq.cached_tokens if first else None,
        finish=finish,
        guided=outcome.guided,
        predicted=outcome.predicted,
        guesses=outcome.guesses,
    )


def _leave(state: State, seq: Sequence) -> None:
    """A sequence is done, however it came to that: nothing of it stays but its cached pages."""
    if seq.status is Status.RUNNING:
        state.stop(seq)
        _drop_pages(state, seq)
    elif seq.leader is not None and seq in state.siblings.get(seq.leader.id, ()):
        state.siblings[seq.leader.id].remove(seq)
    else:
        state.dequeue(seq)
    seq.status = Status.FINISHED
    if seq.tokens[-1] < 0:
        seq.tokens.pop()  # a token that is not known yet is none (ahead.py)
    state.left.append(seq.id)
    _wake_siblings(state, seq)
    group = state.requests[seq.request]
    group.remove(seq)
    if not group:
        del state.requests[seq.request]


def _wake_siblings(state: State, leader: Sequence) -> None:
    """The shared prompt is computed, or its leader is gone: the siblings queue for themselves."""
    for sibling in state.siblings.pop(leader.id, ()):
        state.enqueue(sibling)
