"""What running streams notice of a long prompt that comes in."""

from __future__ import annotations

from .. import messages as m
from ..state import Limits
from .report import Place, Report
from .running import Bench, Course
from .throughput import percentile

STREAMS, LONG, QUIET = 32, 32_768, 150  # streams, tokens of the prompt, frames before it comes
STREAMS_TINY, LONG_TINY, QUIET_TINY = 3, 1200, 6
AFTER = 8  # tokens of a stream behind the prompt's first
WARM = 8192  # tokens of a prompt that comes in before anything is measured, at most


def steps_of(long: int, limits: Limits) -> int:
    """That a prompt takes beside streams."""
    done = steps = 0
    while done < long:
        done += -(-limits.prompt_chunk * limits.reach // (limits.reach + done))
        steps += 1
    return steps


def measure(report: Report, place: Place) -> None:
    streams, long, quiet = (STREAMS_TINY, LONG_TINY, QUIET_TINY) if place.tiny else (STREAMS, LONG, QUIET)
    bench = Bench(place, "llama-3.1-8b", max_model_len=None if place.tiny else long + 1024, max_num_seqs=streams + 1)
    steps = steps_of(long, bench.runner.limits())
    warm = [*bench.asked(streams, 128, quiet // 2), *bench.asked(1, min(long, WARM), 2)]
    bench.run(warm)
    running = bench.asked(streams, 128, quiet + steps + steps // 4 + AFTER, "stream")
    late = bench.asked(1, long, 2, "late")
    sent: list[float] = []

    def more(course: Course) -> list[m.ToEngine]:
        if sent or len(course.times) < quiet:
            return []
        sent.append(course.times[-1])
        return [*late]

    course = bench.run(running, more=more)
    names = [request.id for request in running]
    first = course.when(late[0].id, 1)
    before = course.gaps(names, course.times[quiet // 3], sent[0])
    during = course.gaps(names, sent[0], first)
    calm, held = percentile(before, 99), percentile(during, 99)
    note = f"{streams} streams, a prompt of {long}, {bench.runner.limits().prompt_chunk} tokens of it a step, and fewer"
    report.row("gap.quiet", 1e3 * calm, "ms", "99 % of gaps before the prompt")
    report.row("gap.during", 1e3 * held, "ms", note)
    report.row("gap.ratio", held / calm, "times", "99 % of gaps with the prompt / without")
    report.row("gap.first", first - sent[0], "s", "until the prompt's first token")
