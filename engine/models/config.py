"""Reading config.json so that nothing in it is ignored.

A family says which fields it uses and which must have one certain value. Fields that change nothing of what is
computed are listed here. Any other field is an error: it may change the maths.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError

# Names, ids, training and generation settings, bookkeeping: nothing of the forward pass.
HARMLESS = frozenset(
    """
    _name_or_path architectures model_type transformers_version torch_dtype dtype use_cache bos_token_id
    eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id initializer_range
    attention_dropout resid_pdrop embd_pdrop attn_pdrop hidden_dropout attention_probs_dropout_prob summary_type
    summary_use_proj summary_activation summary_first_dropout summary_proj_to_labels task_specific_params
    id2label label2id problem_type return_dict output_hidden_states output_attentions torchscript
    gradient_checkpointing chunk_size_feed_forward is_encoder_decoder finetuning_task prefix tokenizer_class
    classifier_dropout keys_to_ignore_at_inference auto_map unsloth_version unsloth_fixed
    _attn_implementation_autoset _attn_implementation attn_implementation max_window_layers n_ctx n_special
    predict_special_tokens use_bfloat16 tie_encoder_decoder forced_bos_token_id forced_eos_token_id
    suppress_tokens begin_suppress_tokens
    """.split()
)

_REQUIRED = object()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ModelError naming what is wrong with it."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: holds a {type(config).__name__}; expected an object")
    return config


def positive(name: str, value: Any) -> float:
    """A number of a config.json that is finite and more than 0. Raises ModelError naming it."""
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise ModelError(f"config.json: {name} is {value!r:.200}; expected a finite number above 0")
    return float(value)


class Fields:
    """The fields of one config.json, each taken once; `finish` names those nobody took."""

    def __init__(self, config: Mapping[str, Any]):
        self._left = dict(config)

    def number(self, name: str, default: Any = _REQUIRED, low: int = 1) -> int:
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ModelError(f"config.json: {name} is {value!r}; expected a whole number of at least {low}")
        return value

    def real(self, name: str, default: Any = _REQUIRED) -> float:
        value = self._take(name, default)
        return positive(name, value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise ModelError(f"config.json: {name} is {value!r}; expected true or false")
        return value

    def window(self, unsaid: int) -> int | None:
        """`sliding_window`, in tokens: null is none, and a config that does not name it means `unsaid`."""
        name = "sliding_window"
        return None if self._left.get(name, unsaid) is None else self.number(name, unsaid)

    def object(self, name: str) -> dict[str, Any]:
        value = self._take(name, {})
        if not isinstance(value, dict):
            raise ModelError(f"config.json: {name} is {value!r:.200}; expected an object")
        return value

    def any(self, name: str, default: Any = None) -> Any:
        return self._take(name, default)

    def one_of(self, name: str, choices: tuple[Any, ...], default: Any = _REQUIRED) -> Any:
        value = self._take(name, default)
        if value not in choices:
            shown = ", ".join(map(repr, choices))
            raise ModelError(f"config.json: {name} is {value!r}, which is not computed; expected {shown}")
        return value

    def finish(self) -> None:
        unknown = sorted(k for k, v in self._left.items() if v is not None and k not in HARMLESS)
        if unknown:
            raise ModelError(
                f"config.json: {', '.join(unknown)} may change what is computed and is not known to this family"
            )

    def _take(self, name: str, default: Any) -> Any:
        value = self._left.pop(name, None)
        if value is None:
            if default is _REQUIRED:
                raise ModelError(f"config.json: {name} is missing")
            return default
        return value
