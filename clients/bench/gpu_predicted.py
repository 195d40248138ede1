"""What was expected of an H100 (SXM, 80 GB) before any of this ran on one, and why. Keys are those of rows, or their
beginnings; the longest that fits counts.

Taken from its data sheet: 3.35 TB/s of memory, 989 Tflop/s in bfloat16. An 8B Llama has 15.0 GB of weights that a token
reads, and 131 KB of keys and values a token of context, in bfloat16.
"""

from __future__ import annotations

PREDICTED: dict[str, tuple[str, str]] = {
    "machine.copy": ("2900", "copies reach 85 to 90 % of the data sheet's 3,350"),
    "machine.dense": ("700", "989 by the data sheet; power and the ends of waves leave 70 %"),
    "machine.launch": ("4", "what PyTorch takes to launch one small operation"),
    "decode.8b.bfloat16.rate": ("150", "15.0 GB / 2,900 GB/s = 5.2 ms; graphs leave about 1.4 ms beside it"),
    "decode.8b.bfloat16.share": ("0.78", "5.2 of 6.6 ms"),
    "decode.8b.fp8.gain": ("1.4", "half the bytes, by a kernel of ours at 0.6 of the copy rate, and the same 1.4 ms"),
    "decode.8b.int8.gain": ("1.4", "as fp8"),
    "decode.8b.int4.gain": ("1.9", "4.0 GB with the head in 8 bits, at 0.6 of the copy rate, and the same 1.4 ms"),
    "decode.8b.fp8.share": ("0.55", "as its gain"),
    "decode.8b.int8.share": ("0.55", "as its gain"),
    "decode.8b.int4.share": ("0.40", "as its gain"),
    "decode.1b.bfloat16.share": ("0.50", "2.5 GB / 2,900 GB/s = 0.85 ms, and about as long beside it"),
    "attention.decode.triton.auto.1": ("0.55", "512 programs on 132 multiprocessors, and a launch that joins them"),
    "attention.decode.triton.auto.8": ("0.75", "the same with enough programs to even out"),
    "attention.decode.triton.fp8": ("0.50", "half the bytes; to read them as numbers costs arithmetic"),
    "attention.decode.triton.int8": ("0.50", "as fp8"),
    "attention.decode.torch": ("0.20", "keys and values are gathered first: read, written and read again"),
    "attention.prompt.triton": ("0.30", "tiles of 64 rows and 32 keys, without the card's asynchronous products"),
    "attention.prompt.torch": ("0.15", "scores go through memory, tile by tile"),
    "throughput.output": ("6000", "prompts 10 s; 1,000 steps of 31 ms: 5 of weights, 25 of keys and values"),
    "throughput.step": ("31", "as above"),
    "transformers.output": ("2000", "attention without flash kernels gathers keys and values as torch's does"),
    "transformers.ratio": ("3", "6,000 / 2,000"),
    "server.output": ("2500", "256 prompts of 1,000 take 10 s, 128 steps 2.7 s"),
    "server.gap_p50": ("22", "a step of 256 at 1,100 tokens: 5 ms of weights, 15 of keys and values, and the HTTP"),
    "modes.qwen3-0.6b.plain.busy": ("0.8", "1.8 ms on the device; the host's part of a step, beside it, about 2"),
    "modes.qwen3-0.6b.no_graphs.busy": ("0.3", "400 launches a step at 10 us"),
    "modes.qwen3-0.6b.no_overlap.busy": ("0.5", "both parts one after the other"),
    "modes.qwen3-0.6b.deterministic.step": ("3", "products of 16 rows a tile in place of the library's"),
    "modes.llama-3.1-8b.deterministic.step": ("20", "64 rows at about a third of the library's rate; 9 without"),
    "gap.quiet": ("9", "a step of 32: weights, little else"),
    "gap.during": ("160", "2,048 tokens of a prompt: 75 ms of products, up to 85 of attention over 32k"),
    "gap.ratio": ("18", "160 / 9"),
    "gap.first": ("2", "16 steps of 75 to 160 ms"),
    "kernels.norm": ("3", "one launch in place of six"),
    "kernels.gate": ("1.3", "one launch in place of two"),
    "kernels.mask": ("10", "torch makes a number of each bit first"),
    "kernels.sampler": ("3", "torch sorts 128,256 numbers a row"),
    "kernels.int8": ("1.3", "half the bytes at fewer rows than 64, more arithmetic"),
    "kernels.int4": ("2", "a quarter of the bytes at fewer rows than 64"),
    "kernels.fp8": ("1.3", "as int8"),
    "kernels.dense": ("0.6", "tiles of 16 rows, and no asynchronous copies"),
    "kernels.unpacked": ("2", "making the weights whole writes and reads them again"),
}  # fmt: skip


def predicted(key: str) -> tuple[str, str] | None:
    """What is expected of a row, and why."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if (found := PREDICTED.get(".".join(parts[:length]))) is not None:
            return found
    return None
