"""Predicted outputs: the text that a client expects of the answer for the most part, as tokens."""

from __future__ import annotations

import asyncio

from ...engine.errors import RequestError
from ...engine.messages import Ready
from ..tokenizer import Tokenizer
from .params import check_ids
from .schema import Prediction


async def tokens_of(prediction: Prediction | None, tokenizer: Tokenizer, info: Ready) -> tuple[int, ...]:
    """() where there is none. Raises RequestError for one that no answer could be."""
    if prediction is None:
        return ()
    content = prediction.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    ids = await asyncio.to_thread(tokenizer.encode_content, text, first=False)
    if len(ids) > info.max_model_len:
        raise RequestError(
            f"prediction has {len(ids)} tokens; a sequence may have {info.max_model_len}", param="prediction"
        )
    check_ids(ids, info, "prediction")
    return tuple(ids)
