"""The engine: receive, schedule, execute, commit, send, for ever.

It holds no logic of its own: what runs next is scheduler.py, how it is computed is the runner, what is said is
messages.py. Only the order of the five acts stands here, and what happens when one of them fails.
"""

from __future__ import annotations

import logging
import time

from . import again, ahead, faults, scheduler
from . import messages as m
from .channel import Channel
from .errors import QuireError
from .flying import Flying
from .intake import Intake
from .plan import Plan, StepResult
from .runner import Runner
from .state import State

log = logging.getLogger("quire.engine")

PAUSE, FOREVER = 1, -1  # ms to wait for messages with nothing to run: while something is made beside the loop, and else


class Engine:
    """One loop over one State. `run` returns when a Shutdown came."""

    def __init__(self, runner: Runner, state: State, channel: Channel[m.ToEngine, m.FromEngine]):
        self.runner = runner
        self.library = runner.library
        self.intake = Intake(runner.guides, self.library.want)
        self.state = state
        self.channel = channel
        self.flying: tuple[Plan, Flying] | None = None  # the step that was launched and has not landed
        self.grounded = False  # the next step does not fly
        self.arrived: dict[str, float] = {}  # of requests that have not begun
        self.waited: list[float] = []  # seconds in the queue of those that began since the last stats
        self.steps = 0
        self.schedule_seconds = 0.0
        self.step_seconds = 0.0

    def run(self) -> None:
        while True:
            beside = self.intake.waits or self.library.waits
            busy = self.state.has_work() or self.flying is not None or self.runner.idle()
            inbox = self.channel.receive(0 if busy else PAUSE if beside else FOREVER)
            if any(isinstance(message, m.Shutdown) for message in inbox):
                return
            out = self.receive(inbox) + self.step()
            self.channel.send([*out, self.stats()])

    def receive(self, inbox: list[m.ToEngine]) -> list[m.FromEngine]:
        """Take in what was asked. A request that cannot run is answered, not dropped."""
        refused: list[m.FromEngine] = []
        for message in inbox:
            match message:
                case m.Generate():
                    self.intake.enter(message)
                    self.arrived[message.id] = time.perf_counter()
                case m.Abort(id=request):
                    self.intake.forget(request)
                    scheduler.abort(self.state, request)
                    self.arrived.pop(request, None)
                case m.LoadAdapter() | m.UnloadAdapter():
                    self.library.tell(message)
        for message, made in self.intake.leave():
            try:
                scheduler.add(self.state, message, *made())
            except QuireError as error:
                refused.append(m.Failed(id=message.id, code=error.code or "", message=error.message, param=error.param))
                self.arrived.pop(message.id, None)
        return refused + self.library.news(self.runner.slots)

    def step(self) -> list[m.FromEngine]:
        """One step of everything that runs. Also called with nothing to run, so that the runner hears who left.

        A step that may fly is launched, and its news are those of the one before it, which lands meanwhile; else that
        one lands first, and the step runs from end to end.
        """
        began = time.perf_counter()
        last = self.flying
        if last is None:
            plan = scheduler.schedule(self.state)
        else:  # where the next cannot fly, what has come is sent before it runs
            plan = ahead.schedule(self.state) if self.runner.may_fly else Plan([])
        planned = time.perf_counter()
        for seq in plan.admitted:
            if (at := self.arrived.pop(seq.request, None)) is not None:
                self.waited.append(planned - at)
        if not (plan.slices or plan.freed or last):
            return []
        self.flying = self.launch(plan, last)
        out: list[m.FromEngine] = []
        if last is not None:
            out += self.land(*last)
            if self.grounded:
                plan = ahead.drop(self.state, plan)
            elif self.flying is None:
                plan = ahead.known(plan)
        executed = time.perf_counter()
        if self.flying is None and (plan.slices or plan.freed):
            result = self.execute(plan)
            executed = time.perf_counter()
            out += scheduler.commit(self.state, plan, result)
        elif self.flying is not None:
            ahead.foresee(plan)
        self.steps += bool(plan.slices)
        self.schedule_seconds += planned - began + time.perf_counter() - executed
        self.step_seconds += time.perf_counter() - began
        return out

    def launch(self, plan: Plan, last: tuple[Plan, Flying] | None) -> tuple[Plan, Flying] | None:
        """Let a step fly. None: it is to be run from end to end, with nothing else under way. Raises where the device
        is lost."""
        if self.grounded or not (self.runner.may_fly and ahead.flies(plan)):
            self.grounded = False
            return None
        try:
            return plan, self.runner.launch(plan, last[1] if last is not None else None)
        except Exception as error:
            if faults.lost(error) is not None:
                raise
            log.exception("a step of %d sequences could not be launched; it runs from end to end", len(plan.slices))
            return None

    def land(self, plan: Plan, flying: Flying) -> list[m.TokenDelta | m.Failed]:
        """Wait for the step that flies, and commit it. If it failed as a whole nothing of it stands, nor of the one
        that was launched behind it: the next step computes the same, and does not fly. Raises where the device is lost.
        """
        try:
            result = flying.result()
        except Exception as error:
            if faults.lost(error) is not None:
                raise
            log.exception("a step of %d sequences failed in flight; it runs again from end to end", len(plan.slices))
            ahead.settle(plan)
            self.flying, self.grounded = None, True
            return []
        ahead.settle(plan)
        return scheduler.commit(self.state, plan, result)

    def execute(self, plan: Plan) -> StepResult:
        """Run the step from end to end. If it fails as a whole, what can be is run again (again.py). Raises where the
        device is lost."""
        try:
            return self.runner.execute(plan)
        except Exception as error:
            return again.run(self.runner.execute, self.state, plan, error)

    def stats(self) -> m.StepStats:
        waited, self.waited = self.waited, []
        return m.StepStats(
            steps=self.steps,
            schedule_seconds=self.schedule_seconds,
            step_seconds=self.step_seconds,
            waited=waited,
            **(self.runner.counts() | self.state.gauges()),
        )
