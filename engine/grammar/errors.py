"""What a grammar that cannot be enforced is answered with."""

from __future__ import annotations

from ..errors import GrammarRefused, RequestError

__all__ = ["BeyondEngine", "GrammarFailed", "GrammarRefused"]


class BeyondEngine(GrammarRefused):
    """More than the limits of one engine; another may do."""


class GrammarFailed(RequestError):
    """A grammar that became too much while it was followed: its request ends with this, no other notices."""

    code = "invalid_grammar"
