"""Promises of the real text and of the mixed stream. They read the files of shared/data and skip without them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from quire.pocket.recipe import corpus
from quire.pocket.recipe.samples import MIX, Sample, held_out, is_held_out, key, stream


@pytest.fixture(scope="module")
def few(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first lines of every file, so that reading takes a moment."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "train").mkdir()
    for path in (shared / "train").glob("*.jsonl.gz"):
        lines = 3 if path.name.startswith("classics") else 700
        with gzip.open(path, "rt", encoding="utf-8") as source:
            with gzip.open(folder / "train" / path.name, "wt", encoding="utf-8", compresslevel=1) as target:
                target.writelines(islice(source, lines))
    return folder


@pytest.fixture(scope="module")
def mixed(few: Path) -> list[Sample]:
    return list(islice(stream(few, 0, False, MIX), 6000))


def test_every_kind_has_its_share_of_the_text(mixed: list[Sample]) -> None:
    sizes: Counter[str] = Counter()
    for sample in mixed:
        sizes[sample.kind] += len(key(sample))
    for kind, share in MIX.items():
        assert sizes[kind] / sizes.total() == pytest.approx(share, rel=0.3, abs=0.005), kind


def test_one_seed_gives_one_stream(few: Path, mixed: list[Sample]) -> None:
    assert list(islice(stream(few, 0, False, MIX), 300)) == mixed[:300]
    assert list(islice(stream(few, 1, False, MIX), 300)) != mixed[:300]


def test_training_never_sees_a_held_out_text(few: Path, mixed: list[Sample]) -> None:
    trained = {key(sample) for sample in mixed}
    for kind in MIX:
        assert not trained & {key(sample) for sample in held_out(few, kind, 20)}, kind
    assert not any(is_held_out(key(sample)) for sample in mixed if sample.kind not in ("tools", "extract"))


@pytest.mark.parametrize("kind", corpus.READERS)
def test_real_text_is_clean_and_ends_with_the_assistant(few: Path, kind: str) -> None:
    samples = list(corpus.READERS[kind](few / "train"))
    assert len(samples) > 20
    for sample in samples:
        assert not set("“”‘’\r\xa0") & set(sample.text or "")
        if sample.messages is not None:
            assert sample.messages[-1]["role"] == "assistant"
        names = {tool["function"]["name"] for tool in sample.tools or ()}
        for message in sample.messages or ():
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in names
                assert isinstance(call["function"]["arguments"], dict)
                json.dumps(call)


def test_prose_comes_in_passages_of_short_sentences(few: Path) -> None:
    passages = list(corpus.prose(few / "train"))
    assert passages
    for sample in passages:
        assert sample.text is not None
        assert 200 <= len(sample.text) <= corpus.LONGEST


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"classics_simple\.jsonl\.gz"):
        held_out(tmp_path, "prose", 1)


def test_an_unknown_kind_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'poems'.*prose"):
        held_out(tmp_path, "poems", 1)
