"""The engine: receive, schedule, execute, commit, send, for ever.

It holds no logic of its own: what runs next is scheduler.py, how it is computed is the runner, what is said is
messages.py. Only the order of the five acts stands here, and what happens when one of them fails.
"""

from __future__ import annotations

import logging
import time

from . import messages as m
from . import scheduler
from .channel import Channel
from .errors import QuireError
from .intake import Intake
from .plan import Outcome, Plan, StepResult
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
        self.arrived: dict[str, float] = {}  # of requests that have not begun
        self.waited: list[float] = []  # seconds in the queue of those that began since the last stats
        self.steps = 0
        self.schedule_seconds = 0.0
        self.step_seconds = 0.0

    def run(self) -> None:
        while True:
            beside = self.intake.waits or self.library.waits
            inbox = self.channel.receive(0 if self.state.has_work() else PAUSE if beside else FOREVER)
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
        """One step of everything that runs. Also called with nothing to run, so that the runner hears who left."""
        began = time.perf_counter()
        plan = scheduler.schedule(self.state)
        planned = time.perf_counter()
        for seq in plan.admitted:
            if (at := self.arrived.pop(seq.request, None)) is not None:
                self.waited.append(planned - at)
        if plan.slices or plan.freed:
            result = self.execute(plan)
            executed = time.perf_counter()
            out = scheduler.commit(self.state, plan, result)
            self.steps += bool(plan.slices)
            self.schedule_seconds += planned - began + time.perf_counter() - executed
            self.step_seconds += time.perf_counter() - began
            return list(out)
        return []

    def execute(self, plan: Plan) -> StepResult:
        """Run the step. If it fails as a whole, run each slice alone: who fails alone ends, the others go on.

        Writing a slice's keys and values twice is harmless: the same values go to the same pages.
        """
        try:
            return self.runner.execute(plan)
        except Exception:
            log.exception("a step of %d sequences failed; trying them one by one", len(plan.slices))
        outcomes = []
        for piece in plan.slices:
            try:
                outcomes += self.runner.execute(Plan([piece])).outcomes
            except Exception as error:
                outcomes.append(Outcome(error=f"the engine failed on this request: {type(error).__name__}: {error}"))
        return StepResult(outcomes)

    def stats(self) -> m.StepStats:
        waited, self.waited = self.waited, []
        return m.StepStats(
            steps=self.steps,
            schedule_seconds=self.schedule_seconds,
            step_seconds=self.step_seconds,
            waited=waited,
            drafted=self.runner.speculator.drafted,
            accepted=self.runner.speculator.accepted,
            **self.state.gauges(),
        )
