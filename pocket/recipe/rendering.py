"""A sample as the ids that the server would make of it, and which of them are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...engine.grammar.spec import GrammarSpec
from ...server.binding import bind
from ...server.calls import calls
from ...server.dialect import Dialect
from ...server.prompt import Renderer
from ...server.tokenizer import Tokenizer
from .samples import Sample


class Rendering:
    """Samples -> ids. Everything goes through the server's own renderer."""

    def __init__(self, folder: Path):
        """folder: holds the tokenizer and the chat template."""
        self.tokenizer = Tokenizer.load(folder)
        self._renderer = Renderer(self.tokenizer)
        self.dialect = Dialect.of(self._renderer.source(tools=True), self.tokenizer, "auto", "auto")
        self._start, self._end, self._stop = (
            self.tokenizer.control[name] for name in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
        )
        self._speaker = self.tokenizer.encode_content("assistant\n", first=True)

    def ids(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """ids [n] uint16 and mask [n] bool: true where the token is a target. Of a conversation that is what the
        assistant says, up to and with the token that ends its turn; of plain text it is all, and the token that ends
        it."""
        if sample.text is not None:
            found = [*self.tokenizer.encode_content(sample.text, first=True), self._stop]
            return np.array(found, np.uint16), np.ones(len(found), bool)
        assert sample.messages is not None
        prompt = self._renderer.render(sample.messages, tools=sample.tools, add_generation_prompt=False)
        return np.array(prompt.ids, np.uint16), self.spoken(prompt.ids)

    def call_grammar(self, sample: Sample) -> GrammarSpec | None:
        """What the server binds an answer with these tools by, where calls are free to come."""
        text = self._renderer.render(sample.messages or [], tools=sample.tools).text
        return bind(None, calls(sample.tools or [], "auto", True), self.dialect, text).spec

    def prompt(self, sample: Sample) -> list[int]:
        """Ids of the messages given, with the start of the answer behind them."""
        return self._renderer.render(sample.messages or [], tools=sample.tools).ids

    def spoken(self, ids: list[int]) -> np.ndarray:
        """Mask [n] of what the assistant says. Content never becomes a control token, so turns are found by id."""
        mask = np.zeros(len(ids), bool)
        begin = len(self._speaker) + 1
        at = 0
        while self._start in ids[at:]:
            at = ids.index(self._start, at)
            end = ids.index(self._end, at) + 1
            if ids[at + 1 : at + begin] == self._speaker:
                mask[at + begin : end] = True
            at = end
        return mask
