"""The wire between two processes: whole messages in order, whatever the system does with their bytes."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine import channel as module
from quire.engine.channel import Channel, wait_for

DECODE, ENCODE = msgspec.msgpack.Decoder(list[bytes]).decode, msgspec.msgpack.Encoder().encode


def pair() -> tuple[Channel, Channel]:
    return tuple(Channel(wire, DECODE, ENCODE) for wire in socket.socketpair())


@pytest.fixture
def ends():
    made = pair()
    yield made
    for end in made:
        end.close(0)


def heard(end: Channel, count: int, seconds: float = 20.0) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += end.receive(100)
    return found


def test_what_was_said_before_anybody_listens_waits(ends):
    here, there = ends
    assert there.receive() == []
    here.send([b"a", b"b"])
    here.send([])
    here.send([b"c"])
    assert there.receive() == [b"a", b"b", b"c"]
    assert there.receive() == []
    there.send([b"d"])
    assert here.receive(1000) == [b"d"]


@given(
    batches=st.lists(st.lists(st.integers(0, 3000), max_size=4), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
)
@settings(max_examples=100, deadline=None)
def test_bytes_may_come_in_any_pieces(batches, cuts):
    raw, wire = socket.socketpair()
    end = Channel(wire, DECODE, ENCODE)
    try:
        wanted = [bytes([n % 256]) * n for sizes in batches for n in sizes]
        frames = [ENCODE([bytes([n % 256]) * n for n in sizes]) for sizes in batches]
        data = b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)
        found, turn = [], 0
        while data:
            cut = cuts[turn % len(cuts)]
            raw.sendall(data[:cut])
            data, turn = data[cut:], turn + 1
            found += end.receive()
        assert found == wanted
        assert end._coming == b""
    finally:
        raw.close()
        end.close(0)


def test_sending_never_blocks_and_loses_nothing(ends):
    here, there = ends
    sizes = [10, 5_000_000, 3, 200_000, 1_000_000] * 4
    began = time.monotonic()
    for n, size in enumerate(sizes):
        here.send([bytes([n]) * size])
    assert time.monotonic() - began < 5, "nobody heard anything yet"
    assert here._sender is not None
    found = heard(there, len(sizes))
    assert [(one[:1], len(one)) for one in found] == [(bytes([n]), size) for n, size in enumerate(sizes)]
    here.send([b"last"])
    assert heard(there, 1) == [b"last"]
    assert here._sender is None


def test_both_may_say_more_than_the_system_holds_at_the_same_time(ends):
    for n in range(20):
        for end in ends:
            end.send([bytes([n]) * 1_000_000])
    for end in ends:
        assert [one[0] for one in heard(end, 20)] == list(range(20))


def test_what_was_said_last_is_heard_after_the_end(ends):
    here, there = ends
    there.send([b"never heard"])
    here.send([b"last words"])
    here.close()
    assert not there.ended
    assert there.receive() + there.receive() == [b"last words"]
    assert there.ended
    there.send([b"to nobody"])
    assert there.receive() == []


def test_closing_waits_for_what_is_leaving_but_not_for_ever(ends):
    here, there = ends
    here.send([b"x" * 50_000_000])
    thread = threading.Thread(target=here.close, args=(10_000,))
    thread.start()
    assert [len(one) for one in heard(there, 1)] == [50_000_000]
    thread.join(10)
    assert not thread.is_alive()

    here, there = pair()
    here.send([b"x" * 50_000_000])
    sender = here._sender
    here.close(50)  # nobody hears it
    sender.join(10)
    assert not sender.is_alive()
    there.close(0)


def test_waiting_ends_with_a_message_a_file_or_its_time(ends):
    here, there = ends
    began = time.monotonic()
    assert there.receive(30) == []
    assert time.monotonic() - began > 0.02
    woken, wake = os.pipe()
    there.heed(woken)
    os.write(wake, b".")
    assert there.receive(-1) == []
    os.read(woken, 1)
    threading.Timer(0.02, here.send, [[b"late"]]).start()
    assert there.receive(-1) == [b"late"]
    assert select.select([there], [], [], 0)[0] == []
    here.send([b"more"])
    assert select.select([there], [], [], 5)[0] == [there], "an event loop is told"
    for file in (woken, wake):
        os.close(file)


def test_one_waits_for_several():
    first, second = pair(), pair()
    try:
        began = time.monotonic()
        wait_for([first[0], second[0]], 30)
        assert time.monotonic() - began > 0.02
        threading.Timer(0.02, second[1].send, [[b"here"]]).start()
        wait_for([first[0], second[0]], 20_000)
        assert (first[0].receive(), second[0].receive()) == ([], [b"here"])
        first[1].close()
        assert first[0].receive() == []
        assert first[0].ended
        began = time.monotonic()
        wait_for([first[0], second[0]], 30)  # who is gone has nothing to say
        assert time.monotonic() - began > 0.02
    finally:
        for end in (*first, *second):
            end.close(0)


def test_a_frame_larger_than_what_is_read_at_once(ends, monkeypatch):
    assert module.PIECE < 1_000_000
    here, there = ends
    here.send([b"a" * 1_000_000, b"b"])
    assert [len(one) for one in heard(there, 2)] == [1_000_000, 1]
