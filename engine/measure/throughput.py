"""256 answers at once, all asked for at the same time: 1,000 tokens in, 1,000 out."""

from __future__ import annotations

import statistics
from functools import partial

from .report import Place, Report
from .running import Bench, Course

AT_ONCE, PROMPT, ANSWER, PART = 256, 1000, 1000, 100
LEAST = 1.0  # seconds that it gets, however late it is
SHORT = 16  # tokens of the answers that any program should have time for
AT_ONCE_TINY, PROMPT_TINY, ANSWER_TINY, PART_TINY = 4, 16, 12, 4


def sizes(place: Place) -> tuple[int, int, int, int]:
    """Answers at once, tokens of a prompt, of an answer, and of the parts that answers are looked at in."""
    return (AT_ONCE_TINY, PROMPT_TINY, ANSWER_TINY, PART_TINY) if place.tiny else (AT_ONCE, PROMPT, ANSWER, PART)


def measure(report: Report, place: Place) -> None:
    """`throughput.first.N` is what answers of N tokens give: all tokens until each has N, by the time that takes. So it
    can be held against another program's run with answers of N."""
    one(report, place, "throughput", "auto")
    if place.cuda:
        report.attempt("throughput.int8_pages", partial(one, report, place, "throughput.int8_pages", "int8"))


def one(report: Report, place: Place, key: str, kept: str) -> None:
    """kept: what pages are of."""
    count, prompt, answer, part = sizes(place)
    bench = Bench(place, "llama-3.1-8b", max_model_len=prompt + answer, max_num_seqs=count, kv_cache_dtype=kept)
    bench.run(bench.asked(count, prompt // 2, min(answer, 24)))  # warm
    course = bench.run(bench.asked(count, prompt, answer), seconds=max(LEAST, report.left))
    done = min((len(tokens) for tokens in course.tokens.values()), default=0) if len(course.tokens) == count else 0
    for length in sorted({min(SHORT, part), *range(part, answer + 1, part)}):
        if length <= done:
            report.row(f"{key}.first.{length}", rate(course, length), "output tokens/s")
    if done == answer:
        note = f"{count} at once, {prompt} in, {answer} out, prompts included"
        report.row(f"{key}.output", rate(course, answer), "output tokens/s", note)
    else:
        report.lacks(f"{key}.output", f"the time was over when each had {done} of {answer} tokens")
    if steps := course.whole(count):
        report.row(f"{key}.step", 1e3 * statistics.median(steps), "ms", f"of {len(steps)} steps that all decode in")
    bench.close()


def rate(course: Course, length: int) -> float:
    """Tokens a second over the first `length` tokens of all answers, from the moment they were asked for."""
    end = max(course.when(name, length) for name in course.tokens)
    return len(course.tokens) * length / (end - course.began)


def percentile(values: list[float], share: float) -> float:
    """Linear between the two nearest. Raises ValueError of nothing."""
    if not values:
        raise ValueError("no value was measured")
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)
