"""Trees of guesses: answers are those without them, and what was right lies where its tokens stand."""

from __future__ import annotations

from random import Random

import pytest
import torch
from engine_place import Place, local_runner
from hypothesis import given
from hypothesis import strategies as st
from speculation_cases import LENGTH, asked, told

from quire.engine.config import BLOCK_SIZE, Speculation
from quire.engine.messages import SamplingParams
from quire.engine.plan import Slice
from quire.engine.sampling import _right
from quire.engine.sequence import Sequence
from quire.engine.spec.maker import Drafts

TREES = ("greedy", "sampled", "hot", "top_p", "penalties", "dry", "bias", "logprobs", "n", "grammar")


class Branches:
    """A maker of trees that hold the answer that will come, somewhere among wrong tokens."""

    name = "branches"
    taps = ()

    def __init__(self, plain: Place):
        self.plain, self.random = plain, Random(1)
        self.made = 0

    def read(self, slices, outcomes, states) -> None:
        pass

    def room(self, seq, new, count) -> int:
        return count

    def price(self, sequences: int) -> float:
        return 0.0

    def entry(self, seq) -> float:
        return 0.0

    def forget(self, ids) -> None:
        pass

    def draft(self, wanted) -> list[Drafts]:
        return [self._tree(want) for want in wanted]

    def _tree(self, want) -> Drafts:
        place = want.seq.generated + len(want.new)
        answer = self.plain.answers[want.seq.request, want.seq.index][place:]
        if want.line:
            return Drafts(answer[: want.count])
        tokens, parents, on = [], [], -1  # on: the last node of the answer's own path
        depth = 0
        while len(tokens) < want.count:
            right = depth < len(answer) and self.random.random() < 0.4
            if right:
                tokens.append(answer[depth])
                parents.append(on)
                on, depth = len(tokens) - 1, depth + 1
            else:
                parent = self.random.randrange(-1, len(tokens))
                wrong = self.random.randrange(3, 400)
                if depth < len(answer) and parent == on and wrong == answer[depth]:
                    continue
                tokens.append(wrong)
                parents.append(parent)
        self.made += len(tokens)
        return Drafts(tokens, tuple(parents))


@pytest.fixture(scope="module")
def runner(tiny_model):
    return local_runner(tiny_model, speculative_config=Speculation(adaptive=False, num_speculative_tokens=12))


@pytest.fixture(scope="module")
def plain(tiny_model):
    return asked(Place(local_runner(tiny_model, speculative_config=Speculation(method="none"))), TREES).run()


@pytest.mark.parametrize("room", [{"budget": 400}, {"pages": 40, "budget": 400}, {"budget": 30}])
def test_the_answers_are_those_without_trees(runner, plain, monkeypatch, room):
    branches = Branches(plain)
    monkeypatch.setattr(runner.speculator, "proposers", [])
    monkeypatch.setattr(runner.speculator, "maker", branches)
    place = asked(Place(runner, **room), TREES).run()
    assert not place.failed
    assert told(place) == told(plain)
    assert branches.made > 1000
    if room == {"budget": 400}:
        assert len(place.deltas["greedy 0", 0]) < LENGTH / 2
        assert sum(runner.speculator.tally.accepted["branches"]) > 200


def test_keys_and_values_are_those_of_a_line(runner, plain, monkeypatch):
    """The pages of the accepted path hold what they hold where nothing is guessed."""
    held = []
    for maker in (None, Branches(plain)):
        monkeypatch.setattr(runner.speculator, "proposers", [])
        monkeypatch.setattr(runner.speculator, "maker", maker)
        place = Place(runner, budget=400)
        place.add("greedy 0", None, LENGTH, temperature=0.0)
        seen: dict[int, torch.Tensor] = {}
        commit = place.take_in

        def look(news, place=place, seen=seen, commit=commit):
            commit(news)
            for seq in place.state.running:
                for at in range(seq.computed):
                    page, place = torch.tensor([seq.blocks[at // BLOCK_SIZE]]), torch.tensor([at % BLOCK_SIZE])
                    seen[at] = torch.cat([x[where].flatten() for x, where in runner.cache.at(page, place)])

        place.take_in = look
        place.run()
        held.append(seen)
    both = held[0].keys() & held[1].keys()
    assert len(both) > LENGTH / 2
    for at in both:
        assert torch.allclose(held[0][at], held[1][at], atol=1e-4), at


@given(st.data())
def test_the_path_that_is_right_is_the_one_that_was_sampled(data):
    """Against the plain definition: from token to token, the child that is what was sampled."""
    count = data.draw(st.integers(0, 8))
    parents = tuple(data.draw(st.integers(-1, n - 1)) for n in range(count))
    drafts = [data.draw(st.integers(0, 2)) for _ in range(count)]
    siblings = [(p, t) for p, t in zip(parents, drafts, strict=True)]
    sampled = [data.draw(st.integers(-1, 2)) for _ in range(count + 1)]
    seq = Sequence("a", 0, [0], SamplingParams(max_tokens=9, seed=0))
    piece = Slice(seq, 0, [0, *drafts], count, True, parents)
    tokens, path = _right(piece, sampled)
    at = -1
    for n, token in enumerate(tokens):
        assert sampled[at + 1] == token >= 0
        if n < len(path):
            assert (parents[path[n]], drafts[path[n]]) == (at, token)
            at = path[n]
    assert len(path) == max(0, len(tokens) - 1)
    if tokens:
        behind = (at, tokens[-1])
        assert behind not in siblings or sampled[siblings.index(behind) + 1] < 0
    else:
        assert sampled[0] < 0


@given(st.lists(st.integers(-1, 6), max_size=8))
def test_what_leads_to_each_draft(parents):
    parents = tuple(min(p, n - 1) for n, p in enumerate(parents))
    seq = Sequence("a", 0, [0], SamplingParams(max_tokens=9, seed=0))
    piece = Slice(seq, 0, [0, *range(len(parents))], len(parents), True, parents)
    behind = piece.behind()
    assert behind[0] == []
    for n, parent in enumerate(parents):
        assert behind[n + 1] == [*behind[parent + 1], n]
