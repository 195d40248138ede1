"""What came of guesses, by who made them and by place."""

from __future__ import annotations

from ..messages import Guesses
from ..plan import Slice


class Tally:
    """Proposer -> how many, by place behind the last token."""

    __slots__ = ("accepted", "drafted")

    def __init__(self) -> None:
        self.drafted: dict[str, list[int]] = {}  # that were checked
        self.accepted: dict[str, list[int]] = {}

    def count(self, proposer: str, piece: Slice, right: int) -> None:
        drafted, accepted = self.drafted.setdefault(proposer, []), self.accepted.setdefault(proposer, [])
        for path in piece.behind()[1:]:
            if len(path) > len(drafted):
                drafted.append(0)
                accepted.append(0)
            drafted[len(path) - 1] += 1
        for place in range(right):
            accepted[place] += 1

    def told(self) -> Guesses:
        """A copy."""
        return {name: (drafted[:], self.accepted[name][:]) for name, drafted in self.drafted.items()}
