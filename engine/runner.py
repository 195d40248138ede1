"""The runner: a plan in, accepted tokens out. It owns the model, the cache of keys and values, and the sampler."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..kernels import native
from ..kernels.linear import Linear
from ..kernels.ops import Rows
from . import deterministic, faults
from .attention import BACKENDS, Attend, choose_backend, widest
from .batch import Batch, slot
from .cache import KVCache, bytes_per_token, pool_blocks
from .config import BLOCK_SIZE, EngineConfig
from .errors import ConfigError, QuireError
from .flying import NOT_FINITE, Flying, checked, sound_rows
from .grammar.link import Link, ProcessLink
from .graphs import Graphs, graphs_of, room_for
from .guides import Guides
from .lora.adapter import Raw
from .lora.library import Library
from .lora.read import read as read_adapter
from .lora.read import ready as ready_adapter
from .lora.slots import Slots
from .machine import free_memory, physical_cores, pick_device
from .messages import Ready, TokenLogprob
from .models import CausalLM
from .models.decoder import Decoder
from .models.load import fingerprint, load_model, look
from .plan import Outcome, Plan, Slice, StepResult, failure
from .sampling import Sampler
from .spec.load import load_maker
from .spec.maker import States
from .spec.speculator import Speculator
from .state import Limits
from .warm import first_steps

log = logging.getLogger("quire.engine")

# Token budget of a step where none is set: more keeps a GPU busy; a CPU is at its rate with less, and nobody waits.
STEP_TOKENS = {"cuda": 2048, "cpu": 512}
# Beside streams, where none is set: on a CPU 64 rows take little longer each than 512 do, and a GPU's step of 256 rows
# still takes about what reading the weights does.
PROMPT_CHUNK = {"cuda": 256, "cpu": 64}
ATTENDS = 0.6  # rate of attention, as a share of that of products
PROMPT_ROWS = 64  # prompt rows projected to logits at once, at most
PROMPT_BYTES = 1 << 25  # and this many bytes of logits, about


class Runner:
    """Loads the model, sizes the cache, and executes plans.

    Raises ConfigError or ModelError from the constructor if the model or the settings cannot be served. `progress` is
    called with bytes done and bytes in all while the weights are read. link: to who follows grammars; None: a process
    of its own.
    """

    def __init__(self, config: EngineConfig, progress: Callable[[int, int], None], link: Link | None = None):
        began = time.perf_counter()
        self.config = config
        self.device = pick_device(config.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton launches where the thread is, not where tensors are
        native.set_threads(config.threads or physical_cores())
        folder = Path(config.model)
        attention = deterministic.attention(config.attention, self.device, config.deterministic)
        known, _, dtype = look(folder, dtype=config.dtype, device=self.device, impl=config.model_impl)
        self._architecture = str(known["architectures"][0])
        # What cannot be is said before the weights are read. Once they are, the choice takes them into account.
        pages = config.kv_cache_dtype
        choose_backend(attention, dtype, self.device, pages)
        if (guesser := config.speculative_config.model) is not None and not Path(guesser).is_dir():
            raise ConfigError("speculative_config", f"has {guesser!r} as model", "a folder")
        self.model = load_model(
            folder,
            dtype=config.dtype,
            quantization=config.quantization,
            deterministic=config.deterministic,
            device=self.device,
            impl=config.model_impl,
            context=config.max_model_len,
            progress=progress,
        )
        if not self.model.in_torch and native.serves(self.model.dtype, self.device):
            # Two pools of threads would wait for each other's cores, spinning; and torch has little left to do.
            torch.set_num_threads(1)
        wide = widest(self.model.layers)
        self._backend = choose_backend(attention, self.model.dtype, self.device, pages, wide, self.model.kinds)
        # Torch's attention waits for the device itself, and so does what is not our own of a model.
        waits = self.model.in_torch or self._backend.__name__ == BACKENDS["torch"]
        self.overlap = self.device.type == "cuda" and not waits  # whether steps can fly (ahead.py)
        said = folder, self.model.vocab_size, config.grammar_engines
        self.guides = Guides(link) if link is not None else Guides(ProcessLink(*said), ProcessLink(*said))
        alone = config.deterministic and self.device.type == "cuda"
        self.sampler = Sampler(self.model.vocab_size, self.device, alone=alone)
        self.speculator = Speculator(config.speculative_config)
        maker = load_maker(config.speculative_config, folder, self.model)
        self.slots = Slots(config.max_loras)
        self.library = Library(self._adapter(folder), ready_adapter, config.lora_memory, folder)
        self.step_tokens = config.max_num_batched_tokens or STEP_TOKENS[self.device.type]
        limit = config.longest(self.model.max_position)
        layers = self.model.layers + (maker.layers if maker else [])
        self.graphs: Graphs | None = None
        self.cache: KVCache  # the first one is made to warm up
        activations = self._warm_up(limit)
        kept = self.cache.k[0].dtype
        blocks = pool_blocks(layers, kept, config, free_memory(self.device) - activations, self.device)
        # More than every sequence at full length can never be in use; a tiny model would make millions of pages.
        blocks = min(blocks, config.max_num_seqs * -(-limit // BLOCK_SIZE))
        if config.max_model_len is not None and blocks * BLOCK_SIZE < limit:
            raise ConfigError(
                "max_model_len",
                f"is {limit}, but the KV cache holds {blocks * BLOCK_SIZE} tokens "
                f"({bytes_per_token(layers, kept)} bytes each)",
                f"at most {blocks * BLOCK_SIZE}, or more memory (kv_cache_memory, memory_utilization)",
            )
        self.max_model_len = min(limit, blocks * BLOCK_SIZE)
        self.cache = self._pages(blocks)
        if maker is not None:
            maker.open(blocks, self._backend)
            self.speculator.maker = maker
        self.graphs = self._graphs(self.max_model_len)
        self._load_seconds = time.perf_counter() - began

    def _adapter(self, folder: Path) -> Callable[[Path], Raw]:
        """What reads an adapter of this model; may be called in any thread."""
        model, limit = self.model, self.config.max_lora_rank
        base = functools.cache(lambda: fingerprint(folder))
        return lambda path: read_adapter(path, model.places, base(), model.dtype, model.device, limit)

    def _pages(self, count: int) -> KVCache:
        model, one_order = self.model, self.config.deterministic
        cache: KVCache = self._backend.cache(model.layers, count, model.dtype, self.device, one_order=one_order)
        return cache

    def limits(self) -> Limits:
        config = self.config
        return Limits(
            max_model_len=self.max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=self.step_tokens,
            prompt_chunk=config.prompt_chunk or PROMPT_CHUNK[self.device.type],
            reach=reach(self.model),
            max_waiting=config.max_waiting,
            block_size=BLOCK_SIZE,
            max_loras=config.max_loras,
        )

    def ready(self) -> Ready:
        return Ready(
            architecture=self._architecture,
            dtype=str(self.model.dtype).removeprefix("torch."),
            weights=self.model.kinds,
            device=str(self.device),
            vocab_size=self.model.vocab_size,
            max_model_len=self.max_model_len,
            block_size=BLOCK_SIZE,
            num_blocks=self.cache.num_blocks,
            kv_bytes=self.cache.bytes,
            kept=str(self.cache.k[0].dtype).removeprefix("torch."),
            weight_bytes=self.model.weight_bytes,
            load_seconds=self._load_seconds,
        )

    @torch.inference_mode()
    def execute(self, plan: Plan) -> StepResult:
        """One step. What fails for one sequence is that outcome's `error`; what fails as a whole is raised."""
        self._forget(plan.freed)
        if not plan.slices:
            return StepResult([])
        began = time.perf_counter()
        bound = [piece for piece in plan.slices if piece.sample and piece.seq.guide is not None]
        self.guides.look(bound)  # masks are filled while the model runs
        batch = Batch.of(plan, self.device)
        rows = self.slots.rows(plan.slices, self.device)
        outcomes = [Outcome() for _ in plan.slices]
        asking = [
            (piece, row, outcome)
            for piece, row, outcome in zip(plan.slices, batch.query_start, outcomes, strict=False)
            if piece.seq.params.prompt_logprobs is not None and piece.seq.leader is None
        ]
        hidden, tapped = self._layers(batch, rows, every=bool(asking))
        for piece, row, outcome in asking:
            self._prompt_logprobs(piece, hidden, row, rows, outcome)
        sampled = [i for i, s in enumerate(plan.slices) if s.sample]
        last = None
        if sampled:
            last = hidden.index_select(0, batch.sample_rows) if asking else hidden
            adapted = rows.select(batch.sampled) if rows is not None else None
            logits = self.model.logits(last, adapted)
            self._guided_sample(logits, plan.slices, outcomes, sampled, began)
            self._straighten(plan.slices, outcomes)
        if not bound and not (self.graphs is not None and self.graphs.stalled):
            # No step that may have waited tells what steps cost.
            self.speculator.learn_cost(plan.slices, time.perf_counter() - began)
        self.speculator.propose(plan.slices, outcomes, States(last, batch.query_start, tapped))
        if self.overlap:
            self.speculator.look_back(outcomes)
        return StepResult(outcomes)

    @torch.inference_mode()
    def launch(self, plan: Plan, flying: Flying | None = None) -> Flying:
        """Begin a step that may fly (ahead.py), behind the one that does; the device is not waited for. Its tokens are
        those of `execute`. Raises what goes wrong at once."""
        self._forget(plan.freed)
        batch = Batch.of(plan, self.device, flying.tokens if flying is not None else None)
        rows = self.slots.rows(plan.slices, self.device)
        hidden, _ = self._layers(batch, rows)
        tokens = batch.sample_rows
        if pieces := [piece for piece in plan.slices if piece.sample]:
            adapted = rows.select(batch.sampled) if rows is not None else None
            logits = self.model.logits(hidden, adapted)
            sound = sound_rows(logits)
            tokens = checked(self.sampler.tokens(logits, pieces), sound)
        self.speculator.passed()
        return Flying(tokens, [piece.sample for piece in plan.slices])

    def _forget(self, gone: list[str]) -> None:
        self.sampler.forget(gone)
        self.guides.forget(gone)
        self.speculator.forget(gone)

    def _layers(self, batch: Batch, rows: Rows | None, every: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states of the rows that are sampled, or of `every` row, and side by side [T, taps * width] what
        entered the layers that are tapped."""
        wanted = None if every else batch.wanted
        if self.graphs is not None and (found := self.graphs.run(batch, rows)) is not None:
            hidden, tapped = found
            return hidden if wanted is None else hidden.index_select(0, wanted), tapped
        attend = self._backend.plan(batch, self.model.layers, self.cache)
        return self._forward(self.speculator.taps, batch.tokens, batch.positions, attend, rows, wanted)

    def _forward(
        self,
        tapped: tuple[int, ...],
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        rows: Rows | None = None,
        wanted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not tapped:
            return self.model.forward(tokens, positions, attend, rows, wanted), None
        assert isinstance(self.model, Decoder)
        taps = dict.fromkeys(tapped, tokens)
        hidden = self.model.forward(tokens, positions, attend, rows, wanted, taps)
        return hidden, torch.cat([taps[layer] for layer in tapped], -1)

    def _graphs(self, context: int) -> Graphs | None:
        """Over the cache as it is now. context: tokens that a sequence may reach."""
        taps = self.speculator.taps
        forward = functools.partial(self._forward, taps)
        return graphs_of(self.config, self._backend, self.model, self.cache, context, forward, len(taps))

    @property
    def may_fly(self) -> bool:
        """Whether the next step may fly (ahead.py), as far as that is not a matter of its plan."""
        return self.overlap and self.speculator.rests

    def counts(self) -> dict[str, Any]:
        """The fields of StepStats that are of this."""
        tally = self.speculator.tally
        replayed = self.graphs.counts() if self.graphs is not None else {}
        return {"drafted": tally.drafted, "accepted": tally.accepted, **replayed}

    def idle(self) -> bool:
        """There is nothing to run: do something that helps later steps, if there is something. Whether there was."""
        return (self.graphs is not None and self.graphs.idle()) or self.cache.prepare()

    def _guided_sample(
        self, logits: torch.Tensor, slices: list[Slice], outcomes: list[Outcome], sampled: list[int], began: float
    ) -> None:
        """At least a token for each of `sampled` that has not failed; `drafts + 1` rows of the logits [R, vocab_size]
        are each one's, in that order. Who waits for its grammar sits the step out."""
        bound = [i for i in sampled if slices[i].seq.guide is not None]
        alone = len(bound) == len(slices)
        if bound:
            self.guides.wait([slices[i].seq for i in bound], alone, time.perf_counter() - began)
        due: list[int] = []
        pieces: list[Slice] = []
        rows: list[int] = []  # of the logits, that are sampled
        at = 0
        finite = sound_rows(logits).tolist()
        for i in sampled:
            piece, first = slices[i], at
            at += piece.drafts + 1
            guide = piece.seq.guide
            found = guide.outcome(piece.seq.generated) if guide is not None else None
            count = min(piece.drafts + 1, len(guide.masks)) if guide is not None else piece.drafts + 1
            sound = next((n for n in range(count) if not finite[first + n]), count)
            if found is None and not sound:
                found = Outcome(error=NOT_FINITE)
            if outcomes[i].error is not None:
                continue
            if found is not None:
                found.path = found.path[: piece.drafts]  # drafts of an earlier step have no rows in this one
                _put(outcomes, i, found)
                continue
            due.append(i)
            pieces.append(piece.cut(sound - 1))
            rows += range(first, first + sound)
        if not due:
            return
        if len(rows) < len(logits):
            logits = logits[torch.tensor(rows, device=logits.device)]
        for i, one in zip(due, self._sample(logits, pieces), strict=True):
            self.speculator.learn(slices[i], one)
            _put(outcomes, i, one)
        bound = [i for i in due if slices[i].seq.guide is not None and outcomes[i].error is None]
        if bound:
            pairs = [(slices[i].seq, outcomes[i]) for i in bound]
            taken = self.guides.take(pairs, alone, time.perf_counter() - began)
            for i, one in zip(bound, taken, strict=True):
                _put(outcomes, i, one)

    def _straighten(self, slices: list[Slice], outcomes: list[Outcome]) -> None:
        """Keys and values of the drafts that are right lie among those that are not: move them to where their tokens
        stand."""
        sources: list[int] = []
        targets: list[int] = []
        for piece, outcome in zip(slices, outcomes, strict=True):
            first = piece.end - piece.drafts
            for place, draft in enumerate(outcome.path):
                if draft != place:
                    sources.append(slot(piece.seq.blocks, first + draft))
                    targets.append(slot(piece.seq.blocks, first + place))
        if sources:
            self.cache.move(sources, targets)

    def _sample(self, logits: torch.Tensor, pieces: list[Slice]) -> list[Outcome]:
        """logits [R, vocab_size], `drafts + 1` rows for each slice."""
        try:
            return self.sampler.sample(logits, pieces)
        except Exception as error:
            if faults.of_the_step(error):
                raise
            log.exception("sampling %d rows failed; trying them one by one", len(logits))
        parts = logits.split([piece.drafts + 1 for piece in pieces])
        return [self._sample_alone(part, piece) for part, piece in zip(parts, pieces, strict=True)]

    def _sample_alone(self, logits: torch.Tensor, piece: Slice) -> Outcome:
        try:
            return self.sampler.sample(logits, [piece])[0]
        except QuireError as error:
            return failure(error)
        except Exception as error:
            if faults.of_the_step(error):
                raise
            return Outcome(error=f"sampling failed: {type(error).__name__}: {error}")

    def _prompt_logprobs(
        self, piece: Slice, hidden: torch.Tensor, first: int, rows: Rows | None, outcome: Outcome
    ) -> None:
        """Log-probabilities of the prompt tokens that follow the rows of the slice, which are those of `hidden` from
        `first` on; a bounded number at once."""
        top = piece.seq.params.prompt_logprobs
        assert top is not None
        last = min(piece.end, piece.seq.prompt_len - 1)  # the row of the prompt's last token predicts no prompt token
        count = max(1, min(PROMPT_ROWS, PROMPT_BYTES // (4 * self.model.vocab_size)))
        found: list[TokenLogprob] = []
        for start in range(piece.start, last, count):
            end = min(start + count, last)
            at = range(first + start - piece.start, first + end - piece.start)
            adapted = rows.select(at) if rows is not None else None
            logits = self.model.logits(hidden[at.start : at.stop], adapted)
            if not bool(sound_rows(logits).all()):
                outcome.error = NOT_FINITE
                return
            found += self.sampler.prompt_logprobs(logits, piece.seq.tokens[start + 1 : end + 1], top)
        outcome.prompt_logprobs = found

    @torch.inference_mode()
    def _warm_up(self, limit: int) -> int:
        """Run a first step, so that no request pays for it. Returns the bytes a step needs beside weights and pages.

        On the CPU memory for a step is left to `memory_utilization`; on CUDA it is measured on the largest steps.
        """
        cuda = self.device.type == "cuda"
        most = (self.step_tokens, self.config.max_num_seqs) if cuda else (BLOCK_SIZE, 1)
        prompts, decodes = first_steps(limit, *most)
        self.cache = self._pages(len(prompts[0].seq.blocks))
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        for slices in (prompts, decodes):
            self.execute(Plan(slices))
        self.execute(Plan([], freed=[piece.seq.id for piece in decodes]))
        if not cuda:
            return 0
        self.speculator = Speculator(self.config.speculative_config)  # what is compiled meanwhile is no step's cost
        bytes_ = torch.cuda.max_memory_allocated(self.device) - before
        return bytes_ + room_for(lambda: self._graphs(limit), lambda: free_memory(self.device))


def _put(outcomes: list[Outcome], at: int, one: Outcome) -> None:
    """`one` is the outcome of a slice, whose prompt's log-probabilities are there."""
    one.prompt_logprobs = outcomes[at].prompt_logprobs
    outcomes[at] = one


def reach(model: CausalLM) -> int:
    """Tokens of context behind which attention takes a prompt's token about as long as all products do."""
    products = {id(place.product): place.product for _, place in model.places if isinstance(place.product, Linear)}
    multiplied = sum(product.in_features * product.out_features for product in products.values())
    wide = [spec for spec in model.layers if spec.window is None]
    attended = sum(spec.heads * (spec.head_dim + (spec.v_head_dim or spec.head_dim)) for spec in wide)
    return int(ATTENDS * multiplied / attended) + 1 if attended else 1 << 60
