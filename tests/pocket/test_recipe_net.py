"""The network and its training: documents that never see each other, a loss that is the loss, Muon, batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nano_recipe import NANO

from quire.pocket.recipe import net as net_module
from quire.pocket.recipe import recital
from quire.pocket.recipe.batches import Batch, Batches
from quire.pocket.recipe.data import Documents, write_documents
from quire.pocket.recipe.muon import Muon, orthogonal
from quire.pocket.recipe.net import IGNORED, Llama
from quire.pocket.recipe.presets import PRESETS, Training
from quire.pocket.recipe.rendering import Rendering


@pytest.fixture(scope="module")
def net() -> Llama:
    torch.manual_seed(0)
    net = Llama(NANO.base)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return net


@pytest.fixture(scope="module")
def documents(tmp_path_factory, tokenizer_folder: Path, few_samples) -> Documents:
    folder = tmp_path_factory.mktemp("tokens")
    written = write_documents(few_samples, Rendering(tokenizer_folder), folder / "0")
    documents = Documents(folder)
    assert len(documents) == written
    return documents


def test_documents_in_one_batch_never_see_each_other(net, documents):
    chosen = [documents[n] for n in (3, 0, 40, 41, 7, 3)]
    batch = Batch.of(chosen)
    packed = net.logits(net(batch.tokens, batch.segments))
    at = 0
    for ids, _ in sorted(chosen, key=lambda found: -(-(len(found[0]) - 1) // 16)):
        tokens = torch.tensor(ids[:-1].astype(np.int64))
        alone = net.logits(net(tokens, ((1, len(tokens)),)))
        assert torch.allclose(packed[at : at + len(tokens)], alone, atol=1e-5)
        at += -(-len(tokens) // 16) * 16
    assert at == len(batch.tokens)


def test_targets_are_the_next_tokens_where_the_mask_has_them(documents):
    ids, mask = documents[0]
    batch = Batch.of([(ids, mask)])
    wanted = [int(i) if m else IGNORED for i, m in zip(ids[1:], mask[1:], strict=True)]
    assert batch.targets.tolist()[: len(wanted)] == wanted
    assert set(batch.targets.tolist()[len(wanted) :]) <= {IGNORED}


def test_a_pass_takes_every_document_once_in_another_order_each_time(documents):
    batches = Batches(documents, 512, seed=1)
    lengths = [
        sorted(size for n in range(batches.steps) for size in _sizes(batches[n + turn])) for turn in (0, batches.steps)
    ]
    total = -(-(documents.lengths - 1) // 16) * 16
    assert len(total) - len(lengths[0]) <= 12  # what is left over at the end of a pass
    assert len(total) - len(lengths[1]) <= 12
    assert not torch.equal(batches[0].tokens, batches[batches.steps].tokens)
    assert torch.equal(batches[2].tokens, Batches(documents, 512, seed=1)[2].tokens)


def _sizes(batch: Batch) -> list[int]:
    return [size for count, size in batch.segments for _ in range(count)]


def test_the_loss_in_pieces_is_the_loss(net, documents, monkeypatch):
    monkeypatch.setattr(net_module, "_CHUNK", 7)
    batch = Batch.of([documents[n] for n in range(6)])
    grads = []
    for ours in (True, False):
        net.zero_grad()
        hidden = net(batch.tokens, batch.segments)
        loss = (
            net.loss(hidden, batch.targets)
            if ours
            else F.cross_entropy(net.logits(hidden), batch.targets, ignore_index=IGNORED)
        )
        (2 * loss).backward()
        grads.append((loss.item(), [p.grad.clone() for p in net.parameters()]))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-5)
    for ours, theirs in zip(grads[0][1], grads[1][1], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_attention_in_low_precision_is_attention():
    q, k, v = (torch.randn(2, 4, 40, 8).bfloat16() for _ in range(3))
    wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
    assert torch.allclose(net_module._attention(q, k, v).float(), wanted, atol=0.05)


def test_recitals_are_said_again_and_trained_on_where_they_are(documents):
    recited = recital.documents(seed=1, step=5, tokens=2000, vocab=NANO.base.vocab)
    assert 2000 <= sum(len(ids) for ids, _ in recited) < 2000 + recital.LONGEST
    for ids, mask in recited:
        first = mask.argmax() - 1
        assert mask[first + 1 :].all()
        assert (ids[first:] == ids[: len(ids) - first]).all()
    again = recital.documents(seed=1, step=5, tokens=2000, vocab=NANO.base.vocab)
    assert all((a[0] == b[0]).all() for a, b in zip(recited, again, strict=True))


def test_the_prelude_has_many_recitals_and_the_rest_a_few(documents):
    plain = Batches(documents, 512, seed=1)
    with_recitals = Batches(documents, 512, seed=1, prelude=2, vocab=NANO.base.vocab)
    more = [len(with_recitals[n].tokens) - len(plain[n].tokens) for n in range(4)]
    assert min(more[:2]) > recital.EARLY * 512 * 0.8
    assert min(more[2:]) > 0


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20)])
def test_muons_step_has_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_treats_equal_shapes_together_as_it_would_alone():
    grads = [torch.randn(6, 9) for _ in range(3)]
    together = [torch.zeros(6, 9, requires_grad=True) for _ in grads]
    alone = [torch.zeros(6, 9, requires_grad=True) for _ in grads]
    for matrix, other, grad in zip(together, alone, grads, strict=True):
        matrix.grad = other.grad = grad
    Muon(together, 0.1).step()
    for matrix in alone:
        Muon([matrix], 0.1).step()
    for matrix, other in zip(together, alone, strict=True):
        assert torch.allclose(matrix, other, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_their_promises(name):
    preset = PRESETS[name]
    for shape in (preset.base, preset.draft):
        assert sum(p.numel() for p in Llama(shape).parameters()) == shape.parameters
    assert preset.draft.parameters <= preset.base.parameters / 10
    each = {"bfloat16": 2, "int8": 1.01}[preset.form]  # bytes; a scale comes to every few hundred
    shipped = each * preset.base.parameters + 2 * preset.draft.parameters
    assert shipped < 28_500_000  # adapters and tokenizers come to it


def test_a_run_is_bounded_by_minutes_or_by_steps():
    with pytest.raises(ValueError, match="either minutes or steps"):
        Training(tokens=1, matrix_lr=1, lr=1)
