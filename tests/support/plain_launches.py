"""The launches of attention in Triton done in plain torch, from the same tables, so that engines run on them by the
thousand steps. What the kernels themselves compute is held elsewhere (tests/kernels/attention_triton_cases.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quire.kernels.triton import attention as kernel
from quire.kernels.triton import cache as pages

NOTHING = float("-inf")


class Launch:
    """Stands for a kernel: notes each launch, and calls `act` with its arguments by name."""

    def __init__(self, function: Any, act: Any, notes: list[tuple[str, tuple[int, ...], dict[str, Any]]]):
        self.names, self.name, self.act, self.notes = function.arg_names, function.__name__, act, notes

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **more: Any) -> None:
            given = dict(zip(self.names, args, strict=False)) | more
            self.notes.append((self.name, grid, given))
            self.act(grid, **given)

        return launch


def stand_in(monkeypatch: Any) -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """From now on launches are done here. Returns where they are noted: name, grid, arguments."""
    notes: list[tuple[str, tuple[int, ...], dict[str, Any]]] = []
    for module, name, act in (
        (kernel, "attend_segments", attend), (kernel, "join_segments", join), (pages, "write", write),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, Launch(getattr(module, name), act, notes))
    return notes


def attend(
    grid: Any, *, q: Tensor, keys: Tensor, values: Tensor, out: Tensor, parts: Tensor, peaks: Tensor, tables: Tensor,
    positions: Tensor, works_at: int, kv_heads: int, window: int, scale: float, cap: float, GROUP: int, V_DIM: int,
    ROWS: int, SEGMENT: int, PAGE: int, WINDOWED: bool, CAPPED: bool, KIND: str, **_: Any,
) -> None:  # fmt: skip
    """Of each row and segment in float64, rounded to float32 as the kernel's parts are."""
    assert not KIND
    table = tables.tolist()
    assert table[works_at] <= grid[0]
    for work in range(table[works_at]):
        at = works_at + 1 + work * len(kernel.WORK)
        e = dict(zip(kernel.WORK, table[at : at + len(kernel.WORK)], strict=True))
        item = torch.arange(e["item"], min(e["item"] + ROWS, e["items"]))
        row, place = e["begin"] + item // GROUP, e["start"] + item // GROUP
        for head in range(kv_heads):
            own, found = head * GROUP + item % GROUP, []
            query = q[row, own].double()
            for segment in range(e["first"], e["last"]):
                key = torch.arange(max(segment * SEGMENT, e["low"]), min((segment + 1) * SEGMENT, e["high"]))
                page = tables[e["pages"] + key // PAGE].long()
                scores = (query[:, None] * keys[page, head, key % PAGE].double()).sum(-1) * scale
                scores = cap * scores.tanh() if CAPPED else scores
                seen = key <= place[:, None]
                if WINDOWED:
                    seen &= key > (positions[row] - window)[:, None]
                nth, draft = (key - e["tree"])[None], (place - e["tree"])[:, None]
                if (both := (nth >= 0) & (draft >= 0)).any():
                    word = e["masks"] + draft.clamp(min=0) * e["words"] + nth.clamp(min=0) // 32
                    bits = (tables[word.clamp(max=len(tables) - 1)] >> (nth.clamp(min=0) % 32)) & 1
                    seen &= ~both | (bits != 0)
                found.append(_part(scores.masked_fill(~seen, NOTHING), seen, values[page, head, key % PAGE].double()))
            if e["part"] < 0:
                out[row, own] = _folded(found).to(out.dtype)
                continue
            for nth, (m, l, o) in enumerate(found):  # noqa: E741
                where = (e["part"] + nth * len(item) + torch.arange(len(item))) * kv_heads + head
                parts[where[:, None] * V_DIM + torch.arange(V_DIM)] = o
                peaks[where * 2], peaks[where * 2 + 1] = m, l


def join(
    grid: Any, *, out: Tensor, parts: Tensor, peaks: Tensor, tables: Tensor, splits_at: int, kv_heads: int, GROUP: int,
    V_DIM: int, ROWS: int, **_: Any,
) -> None:  # fmt: skip
    table = tables.tolist()
    assert table[splits_at] <= grid[0]
    for split in range(table[splits_at]):
        at = splits_at + 1 + split * len(kernel.SPLIT)
        begin, first, items, part, segments = table[at : at + len(kernel.SPLIT)]
        item = torch.arange(first, min(first + ROWS, items))
        for head in range(kv_heads):
            found = []
            for segment in range(segments):
                where = (part + segment * len(item) + torch.arange(len(item))) * kv_heads + head
                found.append(
                    (peaks[where * 2], peaks[where * 2 + 1], parts[where[:, None] * V_DIM + torch.arange(V_DIM)])
                )
            out[begin + item // GROUP, head * GROUP + item % GROUP] = _folded(found).to(out.dtype)


def write(
    grid: Any, *, q: Tensor, k: Tensor, v: Tensor, turned: Tensor, keys: Tensor, values: Tensor, slots: Tensor,
    cos: Tensor, sin: Tensor, q_norm: Tensor, k_norm: Tensor, q_eps: float, k_eps: float, q_parts: int, PAGE: int,
    ANGLES: int, Q_NORMED: bool, K_NORMED: bool, KIND: str, **_: Any,
) -> None:  # fmt: skip
    assert not KIND
    rows = (slots >= 0).nonzero()[:, 0]

    def prepared(x: Tensor, norm: Tensor | None, eps: float) -> Tensor:
        x = x[rows].float()
        if norm is not None:
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * norm.float()
        if not ANGLES:
            return x
        c, s = cos[rows].float(), sin[rows].float()
        a, b, rest = x.tensor_split([ANGLES, 2 * ANGLES], -1)
        return torch.cat([a * c - b * s, b * c + a * s, rest], -1)

    if q_parts:
        turned[rows] = prepared(q, q_norm if Q_NORMED else None, q_eps).to(turned.dtype)
    page, place = slots[rows] // PAGE, slots[rows] % PAGE
    keys[page, :, place] = prepared(k, k_norm if K_NORMED else None, k_eps).to(keys.dtype)
    values[page, :, place] = v[rows]


Part = tuple[Tensor, Tensor, Tensor]  # the greatest score, the sum of weights, the weighted sum of values


def _part(scores: Tensor, seen: Tensor, values: Tensor) -> Part:
    m = torch.cat([scores, torch.full((len(scores), 1), NOTHING)], 1).amax(1)
    weights = torch.where(seen, torch.exp2(scores - torch.where(m == NOTHING, 0.0, m)[:, None]), 0.0)
    values = torch.where(seen[..., None], values, 0.0)  # a page that nobody sees may hold anything
    return m.float(), weights.sum(1).float(), (weights[..., None] * values).sum(1).float()


def _folded(parts: list[Part]) -> Tensor:
    top = torch.stack([m for m, _, _ in parts]).amax(0).double()
    weight, acc = torch.zeros_like(top), torch.zeros_like(parts[0][2], dtype=torch.float64)
    for m, l, o in parts:  # noqa: E741
        fade = torch.exp2(m.double() - top)
        weight += l.double() * fade
        acc += o.double() * fade[:, None]
    return (acc / weight[:, None]).float()
