"""The process that follows grammars: `python -m quire.engine.grammar.process`, spawned by the engine (link.py).

Nothing that a grammar does, however long it takes, holds up a step of the model: that waits a moment for a mask and
then goes on without the answer.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import socket
import sys
from pathlib import Path

from ..channel import Channel
from ..child import begin
from . import wire
from .aside import Aside
from .desk import Desk
from .vocabulary import Vocabulary

SWITCH = 0.0005  # seconds until a thread that compiles lets the loop go on; 5 ms is Python's own


def main() -> int:
    start = begin(wire.Start)
    sys.setswitchinterval(SWITCH)
    channel = Channel(socket.socket(fileno=start.wire), wire.decode_to_desk, wire.encode)
    woken, wake = os.pipe()
    channel.heed(woken)
    os.set_blocking(woken, False)
    aside = Aside()
    desk = Desk(
        lambda: Vocabulary.load(Path(start.model), start.vocab_size),
        start.vocab_size,
        start.engines,
        lambda: os.write(wake, b"."),
        aside.do,
        aside.do_long,
    )
    desk.warm(gc.freeze)  # what is loaded stays, and is large: no collection looks at it again
    while True:
        again = aside.turn()
        patience = -1 if again is None else math.ceil(1e3 * again)
        desk.hear(channel.receive(0 if desk.busy else patience))
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        if out := desk.work():
            channel.send(out)
            if any(isinstance(message, wire.Ready) for message in out):
                gc.freeze()  # a grammar stays for long, and frees what it is made of by itself


if __name__ == "__main__":
    sys.exit(main())
