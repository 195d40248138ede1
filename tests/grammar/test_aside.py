"""Jobs beside a loop: at most so many, and who takes long gives way."""

from __future__ import annotations

import os
import threading
import time

import pytest

from quire.engine.grammar import aside as module
from quire.engine.grammar.aside import ALL, NICE, YOUNG, Aside


class Job:
    """Runs until it may end; knows its priority then."""

    def __init__(self):
        self.began, self.go = threading.Event(), threading.Event()
        self.nice = self.policy = None

    def __call__(self):
        self.began.set()
        assert self.go.wait(20)
        if hasattr(os, "SCHED_IDLE"):
            self.policy = os.sched_getscheduler(threading.get_native_id())
        self.nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_jobs_wait_for_the_quick_and_not_for_those_that_take_long():
    place, jobs = Aside(), [Job() for _ in range(ALL + 1)]
    for job in jobs:
        place.do(job)
    assert [job.began.wait(0.5) for job in jobs[:YOUNG]] == [True] * YOUNG
    time.sleep(2 * module.QUICK)
    for n in range(YOUNG, ALL + YOUNG, YOUNG):
        place.turn()
        until(lambda n=n: sum(job.began.is_set() for job in jobs) == min(n + YOUNG, ALL))
        time.sleep(2 * module.QUICK)
    assert not jobs[-1].began.is_set(), "more than all at once"
    jobs[0].go.set()
    assert jobs[-1].began.wait(20)
    for job in jobs:
        job.go.set()


@pytest.mark.skipif(not hasattr(os, "setpriority"), reason="this system has no priorities")
def test_who_takes_long_gives_way_and_the_quick_do_not():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    place, quick, slow = Aside(), Job(), Job()
    quick.go.set()
    place.do(quick)
    place.do(slow)
    until(lambda: quick.nice is not None)
    assert quick.nice == own
    assert slow.began.wait(20)
    again = place.turn()
    assert again is None or again <= module.QUICK
    time.sleep(2 * module.QUICK)
    assert place.turn() is None
    slow.go.set()
    until(lambda: slow.nice is not None)
    assert slow.nice == min(19, max(own, NICE))
    if hasattr(os, "SCHED_IDLE"):
        assert slow.policy == os.SCHED_IDLE != quick.policy


def test_what_is_known_to_take_long_gives_way_at_once_and_leaves_room():
    place, jobs, quick = Aside(), [Job() for _ in range(ALL)], Job()
    for job in jobs:
        place.do_long(job)
    until(lambda: sum(job.began.is_set() for job in jobs) == ALL - YOUNG)
    place.do(quick)
    assert quick.began.wait(20)
    for job in (quick, *jobs):
        job.go.set()
    until(lambda: all(job.nice is not None for job in (quick, *jobs)))
    if hasattr(os, "setpriority"):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert quick.nice == own
        assert {job.nice for job in jobs} == {min(19, max(own, NICE))}


def test_what_a_job_raises_ends_that_job_alone(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    place, last = Aside(), Job()
    for _ in range(ALL + 2):
        place.do(lambda: 1 / 0)
    place.do(last)
    assert last.began.wait(20)
    last.go.set()
