"""Any other causal LM of transformers: its own modules, with attention over our pages.

transformers lets a function be registered that all attention layers call (AttentionInterface); ours hands q, k and v to
the step's `Attend`. The tokens of all sequences go through the model as one row [1, T], so everything in it but
attention must treat each token by itself. Before such a model is served two things are found out by running it on a few
tokens: what each layer asks of attention (`_discover`), and that two sequences side by side, one of them cut, give
what each gives alone (`_check_rows_stand_alone`). What our attention cannot do is refused, never left out.

A rope that changes with the length of the text (dynamic, longrope) would make a token depend on its neighbours: such
models are served up to the length where it stays as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ...kernels import elementwise
from ...kernels.ops import Rows
from ..attention import Attend, LayerSpec, choose_backend, widest
from ..batch import Batch
from ..errors import ConfigError, ModelError
from ..lora.adapter import Place, Places
from ..messages import SamplingParams
from ..plan import Plan, Slice
from ..sequence import Sequence
from . import fits
from .linears import Packed, left_over, pack_linears
from .probe import Probe

log = logging.getLogger("quire.engine")

LAYER_TYPES = {"full_attention", "sliding_attention"}
# The largest relative difference that rounding alone makes between two ways to batch; a dependency makes a larger one.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

_names = (f"quire_paged_{i}" for i in itertools.count())

Handler = Callable[..., torch.Tensor]  # (module, q [1, heads, T, D], k, v, mask, **kwargs) -> [1, T, heads, v_head_dim]


class Hook:
    """What the layers of one model ask: attention and the mask builder call `handle` and `mask`, which change with who
    runs the model; products look up `rows`."""

    def __init__(self) -> None:
        self.handle: Handler | None = None
        self.mask: Callable[..., torch.Tensor | None] | None = None
        self.rows: Rows | None = None  # of the step that runs
        self.counting = False

    def attention(self, module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        assert self.handle is not None
        return self.handle(module, query, key, value, attention_mask, **kwargs), None

    def build_mask(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        return self.mask(*args, **kwargs) if self.mask is not None else None


class Fallback:
    """A CausalLM made of a transformers model."""

    in_torch = True

    def __init__(self, model: nn.Module, hook: Hook, name: str, weight_bytes: int, kinds: str):
        config: Any = model.config
        self._lm = model
        self._hook = hook
        self._name = name
        self.dtype: torch.dtype = model.dtype  # type: ignore[assignment]
        self.device: torch.device = model.device  # type: ignore[assignment]
        self.vocab_size: int = model.get_output_embeddings().out_features  # type: ignore[operator]
        self.width: int = model.get_output_embeddings().in_features  # type: ignore[operator]
        self.max_position = _max_position(config)
        self._base: nn.Module = model.get_decoder()  # type: ignore[operator]
        self.weight_bytes = weight_bytes
        self.kinds = kinds
        self.places = Places()
        self.layers: list[LayerSpec] = []
        self._layer_of: dict[int, int] = {}  # id of an attention module -> layer
        self._exact = self.device.type == "cpu" and self.dtype == torch.float32
        self._discover()
        # The model's own forward then only turns what the base "computed" into logits, with all its scalings and caps.
        self._given = Given()
        _replace(model, self._base, self._given)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        rows: Rows | None = None,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As every CausalLM."""

        def handle(module: nn.Module, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> torch.Tensor:
            rows = (x[0].transpose(0, 1) for x in (q, k, v))
            return attend(self._layer_of[id(module)], *rows)[None]

        self._hook.handle, self._hook.rows = handle, rows
        try:
            with RowWise() if self._exact else contextlib.nullcontext():
                out = self._base(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
        finally:
            self._hook.handle = self._hook.rows = None
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden if wanted is None else hidden[wanted]

    def logits(self, hidden: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        self._given.hidden, self._hook.rows = hidden[None], rows
        tokens = torch.zeros((1, hidden.shape[0]), dtype=torch.int64, device=hidden.device)
        found = self._lm(input_ids=tokens, position_ids=tokens, use_cache=False).logits[0]
        self._given.hidden = self._hook.rows = None
        return found.float()

    def _discover(self) -> None:
        """Run a few tokens and take down what each layer asks for."""
        probe = Probe(self._name, self.max_position)
        self._hook.handle, self._hook.mask, self._hook.counting = probe.attention, probe.mask, True
        tokens = sample_tokens(self.vocab_size, 6, self.device)
        try:
            self._lm(input_ids=tokens[None], position_ids=torch.arange(6, device=self.device)[None], use_cache=False)
        finally:
            self._hook.handle, self._hook.mask, self._hook.counting = None, None, False
        for path, module in self._lm.named_modules():
            if isinstance(module, Packed) and module.calls == [6]:  # it sees all tokens, in their order
                self.places.add(path, Place(module.product, 0, module.out_features))
        expected = self._lm.config.get_text_config().num_hidden_layers  # type: ignore[operator, union-attr]
        if len(probe.layers) != expected:
            raise ModelError(
                f"config.json: {self._name} has {expected} layers, but {len(probe.layers)} of them ask for attention "
                "through transformers' interface; expected all of them (recurrent layers and attention of a model's "
                "own, such as ALiBi, cannot run on the paged cache)"
            )
        self.layers = probe.layers
        self._layer_of = {id(module): i for i, module in enumerate(probe.modules)}

    def check_rows_stand_alone(self, exact: bool = False) -> None:
        """Two sequences together, the first cut in three steps, must give what each gives alone. exact: to the bit."""
        one = sample_tokens(self.vocab_size, 7, self.device)
        two = sample_tokens(self.vocab_size, 12, self.device)[7:]

        alone = torch.cat([*self._run([[(0, one, 0)]]), *self._run([[(0, two, 0)]])])
        steps = [[(0, one[:3], 0)], [(0, one[3:4], 3)], [(0, one[4:], 4), (1, two, 0)]]
        together = torch.cat(self._run(steps))
        self.logits(together)  # the head must work, too, on hidden states that are given to it
        error = float((together - alone).float().abs().max() / alone.float().abs().max().clamp_min(1e-9))
        if not error <= TOLERANCE.get(self.dtype, 1e-1):  # also where it is not a number
            raise ModelError(
                f"config.json: in {self._name} tokens depend on each other outside attention (hidden states differ by "
                f"{error:.2g} of their size between two ways to batch); expected a model whose only memory is its "
                "attention cache"
            )
        if exact and not (self._exact and torch.equal(together, alone)):
            found = f"is true, and {self._name} in {self.dtype} on {self.device} gives other bits in other company"
            raise ConfigError("deterministic", found, "false for this model, or float32 on the CPU")
        if self._exact and not torch.equal(together, alone):
            log.warning("%s: on this machine results may change in the last bits with the batch", self._name)

    def _run(self, steps: list[list[tuple[int, torch.Tensor, int]]]) -> list[torch.Tensor]:
        """Run steps of (sequence, tokens, start) on a small cache; hidden states of each step."""
        backend = choose_backend("auto", self.dtype, self.device, widest=widest(self.layers))
        cache = backend.cache(self.layers, 2, self.dtype, self.device)
        found = []
        for step in steps:
            slices = []
            for which, tokens, start in step:
                seq = Sequence("probe", which, [0], SamplingParams(max_tokens=1, seed=0))
                seq.blocks = [which]
                slices.append(Slice(seq, start, tokens.tolist()))
            batch = Batch.of(Plan(slices), self.device)
            attend = backend.plan(batch, self.layers, cache)
            found.append(self.forward(batch.tokens, batch.positions, attend))
        return found


class Given(nn.Module):
    """Stands in for the base model: returns hidden states that were computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Given.Output:
        assert self.hidden is not None
        return Given.Output(self.hidden)

    class Output:
        """What a base model returns: hidden states, and None for whatever else is asked for."""

        def __init__(self, hidden: torch.Tensor):
            self.last_hidden_state = hidden

        def __getitem__(self, index: Any) -> Any:
            return (self.last_hidden_state,)[index]

        def __getattr__(self, name: str) -> None:
            return None


class RowWise(TorchFunctionMode):
    """While active, operations whose rounding in torch changes with the number of rows are done in a way that does not.

    Linear products that are no `Packed` layer (experts, routers) get a round number of rows: torch rounds the rows of a
    product alike from 4 rows a thread on (measured; `check_rows_stand_alone` looks).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear and args[0].numel() and not kwargs:
            x = args[0].reshape(-1, args[0].shape[-1])
            unit = max(8, 4 * torch.get_num_threads())
            out = func(nn.functional.pad(x, (0, 0, 0, -x.shape[0] % unit)), *args[1:])
            return out[: x.shape[0]].view(*args[0].shape[:-1], -1)
        if func in SIGMOIDS:
            return elementwise.sigmoid(args[0])
        if func is nn.functional.silu:
            return elementwise.silu(args[0])
        if func is nn.functional.gelu:
            tanh = kwargs.get("approximate") == "tanh" or args[1:] == ("tanh",)
            return (elementwise.gelu_tanh if tanh else elementwise.gelu)(args[0])
        return func(*args, **kwargs)


SIGMOIDS = {torch.sigmoid, torch.Tensor.sigmoid, nn.functional.sigmoid}


def load(
    folder: Path,
    config: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None],
    form: str | None = None,
    exact: bool = False,
) -> Fallback:
    """Load a folder with transformers. form: as `Linear` has it, to quantize its linear layers (the head gets int8); to
    a GPU they go one by one then, each to be packed there. exact: no bit of a row may depend on the others.

    Raises ModelError where the model cannot be run exactly, ConfigError where `exact` is too much.
    """
    import transformers

    cls = _model_class(config)
    size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    if not size:
        raise ModelError(
            f"{folder}: no *.safetensors file; other weight files are refused, for pickle runs code when it is read"
        )
    hook, name = Hook(), next(_names)
    transformers.AttentionInterface.register(name, hook.attention)
    transformers.AttentionMaskInterface.register(name, hook.build_mask)
    progress(0, size)
    try:
        model, info = cls.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=name,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"{folder}: transformers cannot load this model: {type(error).__name__}: {error}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found := info.get(kind):
            names = sorted(map(str, found))
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ModelError(f"{folder}: {kind.replace('_', ' ')} in the weights: {', '.join(names[:5])}{more}")
    model = model.eval()
    if form is None:
        model = model.to(device)
    if device.type == "cpu":
        model.set_experts_implementation("eager")  # one expert after the other: each token's sum has one order
    return adopt(model, hook, config["architectures"][0], lambda: progress(size, size), form, device, exact)


def adopt(
    model: nn.Module,
    hook: Hook,
    name: str,
    loaded: Callable[[], None],
    form: str | None = None,
    device: torch.device | None = None,
    exact: bool = False,
) -> Fallback:
    """Make a CausalLM of a transformers model whose attention calls `hook`."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv1d):
            raise ModelError(f"{name}: {path} is a convolution over tokens; expected attention as the only memory")
    with torch.inference_mode():
        device = next(model.parameters()).device if device is None else device
        model.get_input_embeddings().to(device)  # type: ignore[operator]  # which a head may be tied to
        packed = pack_linears(model, hook, form, device)
        model = model.to(device)
        size = sum(p.nbytes for p in model.parameters()) + sum(p.product.bytes for p in packed)
        kinds = {p.product.kind for p in packed}
        if form is not None and not kinds & fits.BITS.keys():
            expected = f"none for {name}, which has no linear layers to quantize in transformers"
            raise ConfigError("quantization", f"is {form!r}", expected)
        if form is not None and (left := left_over(model)):
            kinds |= {str(p.dtype).removeprefix("torch.") for p in left}
            much = fits.shown(sum(p.nbytes for p in left))
            log.warning("%s: %s of its weights are in no linear layer, such as experts, and not quantized", name, much)
        loaded()
        try:
            found = Fallback(model, hook, name, size, " and ".join(sorted(kinds)))
            found.check_rows_stand_alone(exact)
        except (ConfigError, ModelError):
            raise
        except Exception as error:
            raise ModelError(f"{name} fails on the paged cache: {type(error).__name__}: {error}") from error
    return found


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
                return
    raise ModelError(
        f"{type(model).__name__}: its decoder is not one of its modules; expected a model with a separate head"
    )


def sample_tokens(vocab_size: int, count: int, device: torch.device) -> torch.Tensor:
    """Token ids spread over the vocabulary."""
    return (torch.arange(count, device=device) * 7919 + 11) % vocab_size


def _model_class(config: dict[str, Any]) -> Any:
    """The class in transformers. Raises ModelError where there is none, or where its config names what we cannot do."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = (config.get("architectures") or ["none"])[0]
    known = {
        x
        for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for x in ([names] if isinstance(names, str) else names)
    }
    if name not in known or not hasattr(transformers, name):
        raise ModelError(
            f"config.json: architectures is {name!r}; expected a causal language model that "
            f"transformers {transformers.__version__} has (code from the model folder is never run)"
        )
    cls = getattr(transformers, name)
    if not cls._can_set_attn_implementation():
        raise ModelError(
            f"config.json: {name} has attention of its own in transformers {transformers.__version__} (such as ALiBi), "
            "which cannot run on the paged cache; expected a model that uses its attention interface"
        )
    for field in ("vision_config", "audio_config"):
        if config.get(field):
            raise ModelError(f"config.json: {field} is set; expected a model of text alone")
    if config.get("quantization_config"):
        raise ModelError("config.json: quantization_config is set; expected weights in float32, bfloat16 or float16")
    for field in ("is_encoder_decoder", "add_cross_attention"):
        if config.get(field):
            raise ModelError(f"config.json: {field} is true; expected a decoder without cross attention")
    if strange := set(config.get("layer_types") or ()) - LAYER_TYPES:
        raise ModelError(f"config.json: layer_types has {sorted(strange)}; expected only {sorted(LAYER_TYPES)}")
    return cls


def _max_position(config: Any) -> int:
    """Positions up to which no token's rope depends on how long the text is."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if not isinstance(limit, int):
        raise ModelError("config.json: no max_position_embeddings; expected the number of positions of the model")
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [x for x in rope.values() if isinstance(x, dict)]
    for kind in kinds:
        if kind.get("rope_type") == "longrope":
            short = kind.get("original_max_position_embeddings", getattr(text, "original_max_position_embeddings", 0))
            if 0 < short < limit:
                log.warning(
                    "longrope: served up to %d tokens of %d, where its factors change for all tokens", short, limit
                )
                limit = short
    return limit
