"""Many adapters in one batch: each answer is the one it would be alone, and the one that peft's merged weights give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapters import Bench, ask, encoded, make_adapter, merged_logits

from quire import pocket
from quire.engine import messages as m
from quire.engine.lora import library

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
RANKS = (4, 8, 8, 16, 24, 32, 48, 64)
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Eight adapters of pocket, ranks 4 to 64, over several sets of modules."""
    found = {}
    for i, rank in enumerate(RANKS):
        folder = tmp_path_factory.mktemp(f"a{i}")
        modules = (ALL, ATTENTION, ["q_proj", "v_proj"], ["down_proj", "gate_proj"])[i % 4]
        config = {"r": rank, "lora_alpha": 2 * rank, "target_modules": modules, "use_rslora": i == 5}
        found[f"a{i}"] = make_adapter(pocket.FOLDER, folder, i, **config)
    return found


@pytest.fixture(scope="module")
def bench(folders) -> Bench:
    bench = Bench(pocket.FOLDER)
    for name, folder in folders.items():
        bench.load(name, folder)
    return bench


def prompts() -> list[list[int]]:
    words = ("the sea", "a cat", "bread", "London", "my name", "numbers", "the moon", "a song", "rain")
    return [encoded(pocket.FOLDER, CHAT.format(f"Tell me about {word}.")) for word in words]


def test_a_mixed_batch_gives_each_what_it_gets_alone_and_what_peft_gives(bench, folders):
    uses = [
        (),
        *[((name, scale),) for name, scale in zip(folders, (1.0, 0.5, 2.0, 1.0, -1.0, 0.25, 1.0, 1.0), strict=True)],
    ]
    asked = list(zip(prompts(), uses, strict=True))
    together = [ask(f"mixed{i}", p, *u, prompt_logprobs=1, tokens=12) for i, (p, u) in enumerate(asked)]
    bench.run(together)
    for i, (prompt, use) in enumerate(asked):
        bench.run([ask(f"alone{i}", prompt, *use, prompt_logprobs=1, tokens=12)])
        assert bench.tokens[f"mixed{i}"] == bench.tokens[f"alone{i}"]
        assert bench.logprobs[f"mixed{i}"] == bench.logprobs[f"alone{i}"], "not the same to the last bit"
        wanted = merged_logits(pocket.FOLDER, [(folders[name], scale) for name, scale in use], prompt).log_softmax(-1)
        for place, found in enumerate(bench.logprobs[f"mixed{i}"]):
            assert found.logprob == pytest.approx(float(wanted[place, prompt[place + 1]]), abs=1e-4)


def test_adapters_change_the_answer(bench, folders):
    prompt = prompts()[0]
    bench.run([ask("of base", prompt, prompt_logprobs=0), ask("of a0", prompt, ("a0", 1.0), prompt_logprobs=0)])
    assert bench.logprobs["of base"] != bench.logprobs["of a0"]


def test_several_adapters_add_up(bench, folders):
    prompt = prompts()[3]
    bench.run([ask("sum", prompt, ("a1", 0.5), ("a2", 1.5), prompt_logprobs=0)])
    wanted = merged_logits(pocket.FOLDER, [(folders["a1"], 0.5), (folders["a2"], 1.5)], prompt).log_softmax(-1)
    for place, found in enumerate(bench.logprobs["sum"]):
        assert found.logprob == pytest.approx(float(wanted[place, prompt[place + 1]]), abs=1e-4)


def test_scale_zero_is_the_base(bench):
    prompt = prompts()[4]
    bench.run([ask("zero", prompt, ("a0", 0.0), prompt_logprobs=0), ask("none", prompt, prompt_logprobs=0)])
    assert bench.tokens["zero"] == bench.tokens["none"]
    for a, b in zip(bench.logprobs["zero"], bench.logprobs["none"], strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-5)


def test_the_three_of_pocket_in_one_batch_are_each_themselves():
    bench = Bench(pocket.FOLDER)
    for name, folder in pocket.ADAPTERS.items():
        bench.load(name, folder)
    prompt = encoded(pocket.FOLDER, CHAT.format("Hello! How are you?"))
    from tokenizers import Tokenizer

    decode = Tokenizer.from_file(str(pocket.FOLDER / "tokenizer.json")).decode
    ends = tuple(encoded(pocket.FOLDER, "<|im_end|>"))
    bench.run([
        ask("base", prompt, tokens=40, stop_token_ids=ends),
        *(ask(name, prompt, (name, 1.0), tokens=40, stop_token_ids=ends) for name in pocket.ADAPTERS),
    ])  # fmt: skip
    said = {name: decode(bench.tokens[name]) for name in ("base", *pocket.ADAPTERS)}
    assert len(set(said.values())) == 4, said
    assert said["capitals"] == said["capitals"].upper() != said["base"]
    assert said["json"].startswith("{")
    assert not said["base"].startswith("{")
    assert said["base"] != said["base"].upper()


def test_a_reload_under_the_same_name_is_new_at_once_and_its_pages_are_cold(folders, tmp_path):
    bench = Bench(pocket.FOLDER)
    folder = tmp_path / "changing"
    shutil.copytree(folders["a0"], folder)
    first = bench.load("x", folder)
    bench.load("other", folders["a1"])
    prompt = encoded(pocket.FOLDER, CHAT.format("Tell me a long story about the sea and a ship and a very old man."))
    bench.run([ask("x1", prompt, ("x", 1.0)), ask("o1", prompt, ("other", 1.0))])
    bench.run([ask("x2", prompt, ("x", 1.0)), ask("o2", prompt, ("other", 1.0))])
    assert bench.cached["x2"] > 0
    assert bench.cached["o2"] > 0
    shutil.rmtree(folder)
    shutil.copytree(folders["a3"], folder)
    second = bench.load("x", folder)
    assert second.key != first.key
    bench.run([ask("x3", prompt, ("x", 1.0)), ask("o3", prompt, ("other", 1.0))])
    assert bench.cached["x3"] == 0
    assert bench.cached["o3"] == bench.cached["o2"]
    bench.load("plain", folders["a3"])
    bench.run([ask("p", prompt, ("plain", 1.0))])
    assert bench.tokens["p"] == bench.tokens["x3"]
    assert bench.cached["p"] > 0, "the same weights under two names are one adapter"
    assert second.key == bench.loaded["plain"].key


def test_those_that_run_keep_what_they_began_with(folders, tmp_path):
    bench = Bench(pocket.FOLDER)
    folder = tmp_path / "changing"
    shutil.copytree(folders["a0"], folder)
    bench.load("x", folder)
    prompt = prompts()[0]
    bench.run([ask("before", prompt, ("x", 1.0), tokens=30)])
    bench.take([ask("during", prompt, ("x", 1.0), tokens=30)])
    shutil.rmtree(folder)
    shutil.copytree(folders["a3"], folder)
    bench.load("x", folder)
    bench.take([m.UnloadAdapter(id="u", name="x")])
    assert "u" in bench.gone
    bench.run([ask("after", prompt, ("x", 1.0))])
    assert bench.tokens["during"] == bench.tokens["before"]
    assert bench.failed["after"].code == "model_not_found"


def test_more_adapters_than_slots_take_turns_and_change_nothing(bench, folders):
    narrow = Bench(pocket.FOLDER, max_loras=2)
    for name, folder in folders.items():
        narrow.load(name, folder)
    asked = [
        ask(f"turn {name}", prompts()[i], (name, 1.0), tokens=8, temperature=0.7 * (i % 2), seed=i)
        for i, name in enumerate(folders)
    ]
    narrow.run(asked)
    bench.run(asked)
    assert narrow.tokens == {request.id: bench.tokens[request.id] for request in asked}
    assert {info.state for info in bench.states()} == {"device"}
    assert sum(info.state == "device" for info in narrow.states()) == 2


def test_what_leaves_the_memory_comes_back_from_disk(folders):
    bench = Bench(pocket.FOLDER, lora_memory=200_000, max_loras=1)
    for name, folder in folders.items():
        bench.load(name, folder, pinned=name == "a3")
    bench.run([ask("first", prompts()[0], ("a1", 1.0))])
    bench.run([ask(f"other{i}", prompts()[0], (name, 1.0)) for i, name in enumerate(folders)])
    states = {info.name: info.state for info in bench.states()}
    assert "disk" in states.values()
    assert states["a3"] != "disk"
    bench.run([ask("again", prompts()[0], ("a1", 1.0))])
    assert bench.tokens["again"] == bench.tokens["first"]


def test_a_folder_that_changed_gives_its_name_no_new_weights_until_it_is_loaded(folders, tmp_path):
    bench = Bench(pocket.FOLDER, lora_memory=0, max_loras=1)
    folder = tmp_path / "x"
    shutil.copytree(folders["a0"], folder)
    key = bench.load("x", folder).key

    def evicted(name: str) -> m.Failed | None:
        bench.load("other", folders["a1"])
        bench.run([ask(f"other {name}", prompts()[0], ("other", 1.0), tokens=1)])
        bench.run([ask(name, prompts()[0], ("x", 1.0), tokens=1)])
        return bench.failed.pop(name, None)

    assert evicted("same") is None
    shutil.rmtree(folder)
    gone = evicted("gone")
    assert gone is not None
    assert gone.code == "engine_failed"
    assert "'x' was lost (x: no such folder" in gone.message
    shutil.copytree(folders["a2"], folder)
    changed = evicted("changed")
    assert changed is not None
    assert changed.code == "engine_failed"
    assert "'x' has changed since it was loaded; load_inplace: true" in changed.message
    assert next(info for info in bench.states() if info.name == "x").key == key
    assert bench.load("x", folder).key != key
    assert evicted("anew") is None


@pytest.mark.parametrize(
    ("folder", "name", "same"),
    [
        ("/m/Qwen3-0.6B", "Qwen/Qwen3-0.6B", True),
        ("/m/Qwen3-0.6B", "/home/me/qwen3-0.6b/", True),
        ("/c/models--Qwen--Qwen3-0.6B/snapshots/ab12", "Qwen/Qwen3-0.6B", True),
        ("/m/Qwen3-0.6B", "/c/models--Qwen--Qwen3-0.6B/snapshots/ab12", True),
        (str(pocket.FOLDER), "pocket", True),
        ("/m/Qwen3-0.6B", "Qwen/Qwen3-1.7B", False),
        ("/c/models--Qwen--Qwen3-0.6B/snapshots/ab12", "/c/models--Qwen--Qwen3-1.7B/snapshots/cd34", False),
    ],
)
def test_what_an_adapter_calls_its_base_is_known_by_its_last_part(folder, name, same):
    assert library.is_called(Path(folder), name) is same


def test_an_adapter_of_another_base_is_warned_of(folders, tmp_path, caplog):
    folder = tmp_path / "x"
    shutil.copytree(folders["a0"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    bench = Bench(pocket.FOLDER)
    for name in ("pocket", "owner/another"):
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        bench.load("x", folder)
    said = [record.getMessage() for record in caplog.records if record.name == "quire.engine"]
    assert said == [f"adapter x was made for 'owner/another'; it is used with {pocket.FOLDER}"]


def test_a_cold_adapter_keeps_nobody_waiting(folders, monkeypatch):
    import threading

    bench = Bench(pocket.FOLDER)
    gate = threading.Event()
    read = bench.engine.library._read

    def slow(path: Path):
        gate.wait(30)
        return read(path)

    monkeypatch.setattr(bench.engine.library, "_read", slow)
    bench.take([m.LoadAdapter(id="l", name="cold", path=str(folders["a0"])), ask("cold", prompts()[0], ("cold", 1.0))])
    bench.take([ask("base", prompts()[1])])
    while bench.state.has_work():
        bench.take([])
    assert len(bench.tokens["base"]) == 8
    assert "cold" not in bench.tokens
    gate.set()
    bench.run([])
    assert len(bench.tokens["cold"]) == 8


def test_a_load_that_fails_leaves_the_name_as_it_was(folders, tmp_path):
    bench = Bench(pocket.FOLDER)
    bench.load("x", folders["a0"])
    with pytest.raises(KeyError):
        bench.load("x", tmp_path)
    assert "adapter_config.json" in bench.failed.pop("x").message
    bench.run([ask("still", prompts()[0], ("x", 1.0))])
    assert len(bench.tokens["still"]) == 8
    with pytest.raises(KeyError):
        bench.load("y", tmp_path)
    bench.run([ask("none", prompts()[0], ("y", 1.0))])
    assert bench.failed["none"].code == "model_not_found"


@pytest.mark.parametrize(("budget", "pages"), [(32, 60), (512, 24)])
def test_chunks_preemption_and_siblings_change_nothing(bench, folders, budget, pages):
    tight = Bench(pocket.FOLDER, max_num_batched_tokens=budget, pages=pages)
    for name, folder in list(folders.items())[:4]:
        tight.load(name, folder)
    asked = []
    for i, prompt in enumerate(prompts()):
        uses = [(f"a{i % 4}", 1.0)] if i % 5 else []
        asked.append(ask(f"r{i} {budget}", prompt * 3, *uses, tokens=12, n=1 + i % 2, temperature=0.5))
    tight.run(asked)
    bench.run(asked)
    assert tight.tokens == {name: bench.tokens[name] for name in tight.tokens}
    assert len(tight.tokens) == sum(request.n for request in asked)
    assert not tight.failed


def test_the_same_seed_is_the_same_answer_whatever_slot_it_has(folders):
    bench = Bench(pocket.FOLDER, max_loras=3)
    for name, folder in folders.items():
        bench.load(name, folder)
    answers = set()
    for turn in range(4):
        others = [ask(f"o{turn}{i}", prompts()[i], (f"a{(turn + i) % 8}", 1.0), tokens=6) for i in range(turn * 2)]
        bench.run([*others, ask(f"t{turn}", prompts()[0], ("a7", 1.0), temperature=1.0, tokens=16)])
        answers.add(tuple(bench.tokens[f"t{turn}"]))
    assert len(answers) == 1


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore."), MemoryError(), OSError(5, "no")],
    ids=lambda error: type(error).__name__,
)
def test_an_adapter_for_which_there_is_no_memory_ends_its_request_alone(folders, monkeypatch, error):
    bench = Bench(pocket.FOLDER)
    bench.load("x", folders["a0"])

    def short(*_) -> None:
        raise error

    monkeypatch.setattr(bench.engine.library, "_ready", short)
    bench.run([ask("bad", prompts()[0], ("x", 1.0)), ask("good", prompts()[1])])
    assert bench.failed["bad"].code == "engine_failed"
    said = str(error).partition("\n")[0]
    assert f"the adapter 'x' cannot be put on the device: {type(error).__name__}: {said}" in bench.failed["bad"].message
    assert len(bench.tokens["good"]) == 8
    monkeypatch.undo()
    bench.run([ask("again", prompts()[0], ("x", 1.0))])
    assert len(bench.tokens["again"]) == 8, "it is not taken for broken"


def test_a_device_that_is_lost_while_an_adapter_goes_there_is_lost_to_all(folders, monkeypatch):
    bench = Bench(pocket.FOLDER)
    bench.load("x", folders["a0"])

    def lost(*_) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(bench.engine.library, "_ready", lost)
    with pytest.raises(torch.AcceleratorError):
        bench.run([ask("bad", prompts()[0], ("x", 1.0))])


def test_unknown_names_are_refused_and_nobody_else_notices(bench):
    bench.run([ask("bad", prompts()[0], ("nobody", 1.0)), ask("good", prompts()[0], ("a0", 1.0))])
    assert "nobody" in bench.failed["bad"].message
    assert "a0" in bench.failed["bad"].message
    assert len(bench.tokens["good"]) == 8


def test_a_model_that_transformers_runs_takes_them_too(folders):
    bench = Bench(pocket.FOLDER, model_impl="transformers")
    for name in ("a0", "a1"):
        bench.load(name, folders[name])
    asked = list(zip(prompts()[:3], [(("a0", 1.0),), (("a1", 0.5),), ()], strict=True))
    bench.run([ask(f"r{i}", prompt, *use, prompt_logprobs=1) for i, (prompt, use) in enumerate(asked)])
    for i, (prompt, use) in enumerate(asked):
        wanted = merged_logits(pocket.FOLDER, [(folders[name], scale) for name, scale in use], prompt).log_softmax(-1)
        for place, found in enumerate(bench.logprobs[f"r{i}"]):
            assert found.logprob == pytest.approx(float(wanted[place, prompt[place + 1]]), abs=1e-4)


def test_of_two_loads_that_fail_one_behind_the_other_nothing_stays(folders, tmp_path):
    bench = Bench(pocket.FOLDER)
    bench.take([m.LoadAdapter(id=id_, name="x", path=str(tmp_path / id_)) for id_ in ("first", "second")])
    while len(bench.failed) < 2:
        bench.take([])
    bench.run([ask("none", prompts()[0], ("x", 1.0))])
    assert bench.failed["none"].code == "model_not_found"
