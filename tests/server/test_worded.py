"""What takes long to word is worded beside the loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from quire.engine.messages import TokenLogprob
from quire.server.openai.sse import MANY, worded
from quire.server.stream import Piece

ONE = TokenLogprob(token=1, logprob=-1.0, rank=1, top=[])


@pytest.mark.parametrize(("counts", "beside"), [([None], False), ([MANY, None], False), ([MANY, 1], True)])
def test_logprobs_of_long_prompts_are_worded_in_a_thread(counts, beside):
    pieces = [Piece(i, prompt_logprobs=None if n is None else [ONE] * n) for i, n in enumerate(counts)]
    thread = asyncio.run(worded(pieces, threading.get_ident))
    assert (thread != threading.get_ident()) == beside
