"""A GGUF file is served as the folder it was made from, with the same logits; what is not known is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import as_kind, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import CPU, PROMPTS, RAGGED, make, run
from running_server import running
from safetensors.numpy import save_file

from quire.engine.errors import ModelError
from quire.engine.models.load import load_model
from quire.kernels import native
from quire.server import serve
from quire.server.cli import main
from quire.server.prompt import Renderer
from quire.server.tokenizer import Tokenizer

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 10000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama stretched": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}}),
    "mistral with a window": ("Mistral", {"sliding_window": 9, "head_dim": 8}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 with yarn": ("Qwen2", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 with biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}
FLOATS = (Kind.F16, Kind.BF16)
QUANTIZED = (*FLOATS, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """The environment that says where the folders lie."""
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder with a small random Llama."""
    make("Llama", tmp_path / "hf")
    return tmp_path / "hf"


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_the_folder(name, tmp_path, place):
    torch.set_num_threads(1)
    family, fields = SHAPES[name]
    make(family, tmp_path / "hf", **fields)
    write_model(tmp_path / "hf", tmp_path / "x.gguf")
    folder = serve.find_model(str(tmp_path / "x.gguf"), place)
    found = run(load_model(folder, dtype="float32", device=CPU, impl="quire"), PROMPTS, RAGGED)
    expected = run(load_model(tmp_path / "hf", dtype="float32", device=CPU, impl="quire"), PROMPTS, RAGGED)
    for ours, theirs in zip(found, expected, strict=True):
        if name == "llama 3":  # the file has divisors of the frequencies, rounded
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(ours, theirs)


def test_the_story_model_says_its_golden_ids(stories, golden, tmp_path, place):
    write_model(stories, tmp_path / "x.gguf")
    folder = serve.find_model(str(tmp_path / "x.gguf"), place)
    ids = golden["prompt_ids"] + golden["completion_ids"]
    logits = run(load_model(folder, dtype="float32", device=CPU), [ids], [[(0, len(ids))]])[0]
    assert logits[:-1].argmax(-1).tolist() == golden["completion_ids"]
    assert Tokenizer.load(folder).decode(ids) == golden["text"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a key nobody knows": ({"attention.twist": 2.0}, r"key llama\.attention\.twist may change what is computed"),
    "experts": ({"expert_count": 8}, r"key llama\.expert_count is 8; expected 0"),
    "a scale": ({"attention.scale": 0.5}, r"llama\.attention\.scale"),
    "half a rope": ({"rope.dimension_count": 4}, r"key llama\.rope\.dimension_count is 4; expected 8"),
    "other values": ({"attention.value_length": 16}, r"attention\.value_length is 16; expected 8"),
    "a rope of nobody": ({"rope.scaling.type": "spiral"}, r"rope\.scaling\.type is 'spiral'; expected none | linear"),
    "a temperature of yarn": ({"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 0.5}, r"attn_factor is 0\.5"),
    "beta of linear": ({"rope.scaling.type": "linear", "rope.scaling.yarn_beta_fast": 8.0}, "yarn_beta_fast"),
    "another layout": ({"tensor_data_layout": "reference"}, "tensor_data_layout is 'reference'"),
    "no context": ({"context_length": None}, r"key llama\.context_length is missing"),
    "a context of text": ({"context_length": "long"}, r"context_length is 'long'; expected a whole number"),
    "no layers": ({"block_count": 0}, r"block_count is 0; expected 2"),
    "more layers": ({"block_count": 1 << 31}, r"block_count is 2147483648; expected 2"),
    "a wider mind": ({"feed_forward_length": 1 << 31}, r"ffn_up\.weight is \[48, 32\]; by the file's keys"),
    "more heads": ({"attention.head_count": 8}, r"tensor blk\.0\.attn_q\.weight|attention\.key_length"),
    "heads by layer": ({"attention.head_count_kv": [2, 2]}, "head_count_kv is an array of 2"),
    "more words": ({"vocab_size": 200}, r"vocab_size is 200; expected 101"),
    "an eps that is none": ({"attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_maths_is_refused_by_its_key(name, llama, tmp_path, place):
    keys, named = REFUSED[name]
    write_model(llama, tmp_path / "x.gguf", **keys)
    with pytest.raises(ModelError, match=named) as caught:
        serve.find_model(str(tmp_path / "x.gguf"), place)
    assert str(tmp_path / "x.gguf") in caught.value.message
    assert not (tmp_path / "cache").exists(), "something was written of a file that cannot be served"


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.architecture", "gemma9", r"general\.architecture is 'gemma9'; expected llama \| qwen2 \| qwen3"),
        ("general.type", "adapter", r"general\.type is 'adapter'; expected model"),
        ("split.count", 3, "is one of 3 parts; expected a whole file"),
        ("tokenizer.ggml.model", "t5", r"tokenizer\.ggml\.model is 't5'; expected gpt2 \| llama"),
        ("tokenizer.ggml.pre", "kimi-k9", r"tokenizer\.ggml\.pre is 'kimi-k9'; expected llama-bpe"),
        ("tokenizer.ggml.add_sep_token", True, "add_sep_token is True; expected False"),
        ("tokenizer.ggml.eos_token_id", 999, "eos_token_id is 999; expected an id below 101"),
        ("tokenizer.ggml.add_bos_token", True, r"add_bos_token is true; expected tokenizer\.ggml\.bos_token_id"),
        ("tokenizer.ggml.normalizer.lowercase", True, r"normalizer\.lowercase may change how text is cut"),
        ("tokenizer.ggml.merges", ["a c"], "merges has 'a c'; expected two tokens that make a third"),
        ("tokenizer.ggml.token_type", [1, 1], r"token_type is an array of 2: .*; expected an array of 101 int"),
        ("tokenizer.ggml.token_type", [9] * 101, "token_type has 9; expected 1 to 6"),
        ("tokenizer.ggml.tokens", ["a"] * 101, "has 'a' twice or empty"),
        ("tokenizer.chat_template", 7, r"tokenizer\.chat_template is 7; expected a text"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_key(key, value, named, llama, tmp_path, place):
    write_model(llama, tmp_path / "x.gguf", whole={key: value})
    with pytest.raises(ModelError, match=named):
        serve.find_model(str(tmp_path / "x.gguf"), place)


def test_the_architecture_is_the_first_to_be_named(llama, tmp_path, place):
    foreign = {"general.architecture": "gemma9", "tokenizer.ggml.model": "gemma9", "general.twist": 1}
    write_model(llama, tmp_path / "x.gguf", whole=foreign)
    with pytest.raises(ModelError, match=r"general\.architecture is 'gemma9'"):
        serve.find_model(str(tmp_path / "x.gguf"), place)


@pytest.mark.parametrize(
    ("own", "other", "named"),
    [
        ("token_embd.weight", "tok_embeddings.weight", r"tensor token_embd\.weight is missing"),
        ("blk.0.attn_norm.weight", "blk.0.attn_norm_2.weight", r"tensor blk\.0\.attn_norm_2\.weight has no place"),
        ("blk.0.attn_v.weight", "blk.0.attn_v.bias", r"tensor layers\.0\.self_attn\.v_proj\.weight is missing"),
        ("blk.1.ffn_up.weight", "blk.9.ffn_up.weight", "block_count is 2; expected 10"),
    ],
)
def test_tensors_of_another_model_are_refused(own, other, named, llama, tmp_path, place):
    write_model(llama, tmp_path / "x.gguf", renamed={own: other})
    with pytest.raises(ModelError, match=named):
        load_model(serve.find_model(str(tmp_path / "x.gguf"), place), dtype="float32", device=CPU)


def test_divisors_of_the_rope_that_cannot_be_are_refused(tmp_path, place):
    make("Llama", tmp_path / "hf", rope_parameters=LLAMA3)
    write_model(tmp_path / "hf", tmp_path / "x.gguf", **{"rope.scaling.type": "linear", "rope.scaling.factor": 2.0})
    with pytest.raises(ModelError, match=r"linear beside tensor rope_freqs\.weight"):
        serve.find_model(str(tmp_path / "x.gguf"), place)
    write_model(tmp_path / "hf", tmp_path / "y.gguf")
    data = (tmp_path / "y.gguf").read_bytes()
    (tmp_path / "y.gguf").write_bytes(data.replace(np.float32(8).tobytes(), np.float32(-8).tobytes()))
    with pytest.raises(ModelError, match=r"rope_freqs\.weight holds what is no divisor"):
        serve.find_model(str(tmp_path / "y.gguf"), place)


def test_what_its_makers_would_sample_with_is_kept(llama, tmp_path, place):
    more = {"general.sampling.temp": 0.6, "general.sampling.top_k": 20, "tokenizer.ggml.eot_token_id": 3}
    write_model(llama, tmp_path / "x.gguf", whole=more)
    folder = serve.find_model(str(tmp_path / "x.gguf"), place)
    found = json.loads((folder / "generation_config.json").read_text())
    assert found == {"temperature": 0.6, "top_k": 20, "eos_token_id": [2, 3]}


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_small_numbers_give_the_logits_of_the_weights_they_stand_for(family, kind, tmp_path, place):
    make(family, tmp_path / "hf", **WIDE)
    stored = write_model(tmp_path / "hf", tmp_path / "x.gguf", as_kind(kind))
    save_file(stored, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    folder = serve.find_model(str(tmp_path / "x.gguf"), place)
    found = run(load_model(folder, dtype="auto", device=CPU, impl="quire"), PROMPTS, RAGGED)
    expected = run(load_model(tmp_path / "hf", dtype="float32", device=CPU, impl="quire"), PROMPTS, RAGGED)
    for ours, theirs in zip(found, expected, strict=True):
        apart = ((ours - theirs).norm() / theirs.norm()).item()
        # Whole numbers are multiplied by rounded rows: of 8 bits beside weights of 4, or where bytes are, else of 16.
        in_bytes = kind.name in ("Q4_0", "Q4_1") or native.multiplies_bytes()
        assert apart == 0 if kind in FLOATS else apart < (6e-2 if in_bytes else 1e-3)


# ---------------------------------------------------------------- where the folder lies


def test_the_folder_is_written_once_and_whole(llama, tmp_path, place):
    write_model(llama, tmp_path / "x.gguf")
    folder = serve.find_model(str(tmp_path / "x.gguf"), place)
    assert folder.parent == tmp_path / "cache" / "quire" / "gguf"
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert sorted(before) == [
        "config.json", "generation_config.json", "model.gguf", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (folder / "model.gguf").resolve() == (tmp_path / "x.gguf").resolve()
    assert serve.find_model(str(tmp_path / "x.gguf"), place) == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder], "half a folder was left behind"


def test_servers_that_start_together_share_the_folder(llama, tmp_path, place):
    write_model(llama, tmp_path / "x.gguf")
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: serve.find_model(str(tmp_path / "x.gguf"), place), range(8)))
    assert len(folders) == 1
    assert list((tmp_path / "cache" / "quire" / "gguf").iterdir()) == list(folders)


def test_two_trainings_of_one_model_are_two_folders(llama, tmp_path, place):
    write_model(llama, tmp_path / "a.gguf")
    data = (tmp_path / "a.gguf").read_bytes()
    (tmp_path / "b.gguf").write_bytes(data[:-4] + b"\0\0\0\0")
    folders = [serve.find_model(str(tmp_path / f"{name}.gguf"), place) for name in "ab"]
    assert [(f / "model.gguf").resolve().name for f in folders] == ["a.gguf", "b.gguf"]


def test_another_file_of_the_same_name_is_another_folder(llama, tmp_path, place):
    write_model(llama, tmp_path / "x.gguf")
    first = serve.find_model(str(tmp_path / "x.gguf"), place)
    write_model(llama, tmp_path / "x.gguf", context_length=512)
    second = serve.find_model(str(tmp_path / "x.gguf"), place)
    assert first != second
    assert json.loads((second / "config.json").read_text())["max_position_embeddings"] == 512


def test_where_nothing_can_be_written_the_folder_is_a_temporary_one(llama, tmp_path):
    write_model(llama, tmp_path / "x.gguf")
    (tmp_path / "file").write_text("")
    folder = serve.find_model(str(tmp_path / "x.gguf"), {"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert load_model(folder, dtype="float32", device=CPU).vocab_size == 101
    shutil.rmtree(folder)


def test_a_folder_with_one_file_is_that_file(llama, tmp_path, place):
    (tmp_path / "own").mkdir()
    write_model(llama, tmp_path / "own" / "x.gguf")
    folder = serve.find_model(str(tmp_path / "own"), place)
    assert folder == serve.find_model(str(tmp_path / "own" / "x.gguf"), place)
    write_model(llama, tmp_path / "own" / "y.gguf")
    with pytest.raises(ModelError, match=r"has 2 \.gguf files; expected one of them to be named"):
        serve.find_model(str(tmp_path / "own"), place)


def test_clients_call_it_by_the_name_of_the_file(tmp_path):
    (tmp_path / "small-Q4_K_M.gguf").write_text("")
    assert serve.name_of(str(tmp_path / "small-Q4_K_M.gguf")) == "small-Q4_K_M"


def test_a_broken_file_is_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert main(["serve", str(tmp_path / "x.gguf")], {"XDG_CACHE_HOME": str(tmp_path)}) == 1
    assert capsys.readouterr().err == f"quire: {tmp_path}/x.gguf: version: found 4 bytes at 4; expected at most 0: " \
        "the file is cut or damaged\n"  # fmt: skip


def test_any_damage_is_an_error_or_a_model(llama, tmp_path, place):
    write_model(llama, tmp_path / "x.gguf")
    sound = (tmp_path / "x.gguf").read_bytes()
    damaged = tmp_path / "damaged.gguf"

    def read(file: Path) -> None:
        folder = serve.find_model(str(file), place)
        Tokenizer.load(folder)
        load_model(folder, dtype="float32", device=CPU)

    @settings(max_examples=300, deadline=None, database=None)
    @given(st.integers(0, 4096) | st.integers(0, len(sound) - 1), st.integers(0, 255), st.booleans())
    def attempt(at: int, byte: int, cut: bool) -> None:
        damaged.write_bytes(sound[:at] if cut else sound[:at] + bytes([byte]) + sound[at + 1 :])
        with contextlib.suppress(ModelError):
            read(damaged)

    read(tmp_path / "x.gguf")
    attempt()


# ---------------------------------------------------------------- the chat


MESSAGES = [{"role": "system", "content": "Be <|im_end|> short."}, {"role": "user", "content": "Hello, 日本!"}]


def test_prompts_are_those_of_the_folders_template(tiny_model, tmp_path, place):
    write_model(tiny_model, tmp_path / "x.gguf")
    found = Tokenizer.load(serve.find_model(str(tmp_path / "x.gguf"), place))
    expected = Tokenizer.load(tiny_model)
    assert found.chat_template == expected.chat_template
    assert Renderer(found).render(MESSAGES) == Renderer(expected).render(MESSAGES)


def test_a_server_answers_as_that_of_the_folder(tiny_model, tmp_path, place, capsys):
    write_model(tiny_model, tmp_path / "tiny.gguf")
    asked = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    answers = []
    for model in (tmp_path / "tiny.gguf", tiny_model):
        with running(model, "--served-model-name", "tiny", env=place) as server:
            server.wait_ready()
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60).json()
            answers.append((answer["choices"], answer["usage"]))
    assert answers[0] == answers[1]
    assert answers[0][1]["completion_tokens"] == 24
    assert main(["check-template", str(tmp_path / "tiny.gguf")], place) in (0, 1)
    assert "calls are read as" in capsys.readouterr().out
