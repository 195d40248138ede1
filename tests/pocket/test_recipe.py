"""The recipe from end to end with a nano preset: it resumes, refuses, and leaves models that others can load."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import paged
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quire.engine.errors import ConfigError, ModelError
from quire.engine.models.load import load_model
from quire.pocket import verify
from quire.pocket.recipe import adapters, card, cli, draft, export, lora, stored, train
from quire.pocket.recipe.batches import Batches
from quire.pocket.recipe.net import Llama
from quire.pocket.recipe.presets import PRESETS, bounded, continued
from quire.pocket.recipe.steps import Run
from quire.pocket.recipe.styles import STYLES
from quire.pocket.recipe.train import Job, fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(nano_run: Run) -> Run:
    """A run that is finished."""
    cli.perform(nano_run, list(cli.STEPS), force=False)
    return nano_run


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_cut_short(run, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", {"cpu": 0.0})
    monkeypatch.setattr(train, "low_precision_is_faster", lambda job, device: False)  # as the clock may say either time

    def job(name: str, **more) -> Job:
        torch.manual_seed(3)
        net, training = Llama(run.preset.base), run.preset.base_training
        return Job(name, net, training, Batches(run.documents(), training.tokens, 3), tmp_path / f"{name}.pt", **more)

    whole, cut = job("whole"), job("cut", stop_after=2)
    fit(whole, CPU)
    fit(cut, CPU)
    assert not torch.equal(whole.net.model.embed_tokens.weight, cut.net.model.embed_tokens.weight)
    again = job("cut")
    again.net.load_state_dict(Llama(run.preset.base).state_dict())  # none of it is used
    steps = [point.step for point in fit(again, CPU)]
    for name, weight in whole.net.state_dict().items():
        assert torch.equal(weight, again.net.state_dict()[name]), name
    assert steps[-1] == run.preset.base_training.steps


def test_what_goes_on_on_a_device_has_its_sums_there_and_its_counts_on_the_host(run, tmp_path):
    """AdamW reads the counts of all parameters in each step, and a GPU would be waited for each time."""
    shutil.copyfile(run.work / "base.pt", tmp_path / "base.pt")
    training, net = run.preset.base_training, Llama(run.preset.base).to("meta")  # as a GPU would be another device
    job = Job("base", net, training, Batches(run.documents(), training.tokens, 3), tmp_path / "base.pt")
    optimizers = train._optimizers(net, training)
    assert train._restore(job, optimizers).step == training.steps
    adamw, muon = ([*optimizer.state.values()] for optimizer in optimizers)
    assert {state["step"].device.type for state in adamw} == {"cpu"}
    assert {state["exp_avg"].device.type for state in adamw} == {state["momentum"].device.type for state in muon}
    assert {state["momentum"].device.type for state in muon} == {"meta"}


def test_a_model_whose_training_goes_on_takes_its_draft_model_along(run, tmp_path):
    work = Path(shutil.copytree(run.work, tmp_path / "work"))
    (work / "draft.pt").unlink()
    still = replace(run.preset.draft_training, steps=1, lr=0.0, matrix_lr=0.0)
    again = replace(run, work=work, preset=replace(run.preset, draft_training=still), start=run.out / "model")
    draft.train(again)
    shipped = load_file(run.out / "draft" / "model.safetensors")
    for name, weight in again.net("draft").named_parameters():
        assert torch.equal(weight.bfloat16(), shipped[name]), name


@pytest.mark.parametrize("name", PRESETS)
def test_what_goes_on_goes_gently_and_ends_on_a_small_machine(run, name):
    first, then = PRESETS[name], continued(PRESETS[name], run.out / "model")
    for before, after in ((first.base_training, then.base_training), (first.draft_training, then.draft_training)):
        assert after.tokens <= 8192
        assert after.lr == before.lr / 2
        assert after.matrix_lr == before.matrix_lr / 2
    assert then.draft_training.steps == 500
    assert then.adapter_training.minutes == 2.5
    assert (then.base, then.draft) == (run.preset.base, first.draft)


@pytest.mark.parametrize("form", ["bfloat16", "int8"])
def test_what_goes_on_keeps_its_shape_and_its_form(run, tmp_path, form):
    export.write_model(run.net("base"), run.tokenizer, tmp_path, form)
    then = continued(PRESETS["gpu"], tmp_path)
    assert (then.base, then.form) == (run.preset.base, form)


def test_what_goes_on_must_be_there(tmp_path, capsys):
    command = ["--preset", "gpu", "--from", str(tmp_path), "--work", str(tmp_path / "work")]
    assert cli.main(command) == 1
    told = f"recipe: --from is {tmp_path}; expected the folder of a finished model of this recipe"
    assert told in capsys.readouterr().err


def test_training_lowers_the_loss(run, tmp_path):
    training = replace(run.preset.base_training, steps=40)
    torch.manual_seed(0)
    job = Job("short", Llama(run.preset.base), training, Batches(run.documents(), 512, 0), tmp_path / "short.pt")
    history = fit(job, CPU)
    assert history[-1].loss < 0.95 * history[0].loss


def test_what_is_done_is_not_done_again(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.out.rglob("*")}
    cli.perform(run, list(cli.STEPS), force=False)
    assert capsys.readouterr().err.count("done before") == len(cli.STEPS)
    assert {path: path.stat().st_mtime_ns for path in run.out.rglob("*")} == before


def test_a_finished_model_is_not_overwritten_without_force(run, tmp_path):
    other = replace(run, work=tmp_path / "work")
    with pytest.raises(ConfigError, match="holds a finished model; expected an empty folder, or --force"):
        cli.perform(other, list(cli.STEPS), force=False)
    assert not other.work.exists()


def test_the_work_folder_of_another_run_is_not_taken_for_ones_own(run):
    with pytest.raises(ConfigError, match="holds the corpus of run 'nano 0'; expected that of 'nano 5', or --force"):
        cli.perform(replace(run, seed=5), ["corpus"], force=False)


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    command = ["--preset", "cpu", "--work", str(tmp_path), "--out", str(tmp_path), "--shared", str(tmp_path / "none")]
    assert cli.main([*command, "--only", "train"]) == 1
    assert "recipe: " in capsys.readouterr().err
    assert cli.main([*command, "--steps", "0"]) == 1
    assert "recipe: --steps is 0; expected more than 0" in capsys.readouterr().err
    assert cli.main([*command, "--minutes", "nan"]) == 1
    assert "recipe: --minutes is nan; expected more than 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bound", "told"), [({}, ""), ({"steps": 9}, " --steps 9"), ({"minutes": 2.5}, " --minutes 2.5")]
)
def test_the_card_tells_the_command_with_its_bound(tmp_path, bound, told):
    preset = PRESETS["cpu"]
    run = Run("cpu", bounded(preset, **bound) if bound else preset, tmp_path, tmp_path, tmp_path, 3, 1, CPU)
    assert card.command(run) == f"python -m quire.pocket.recipe --preset cpu --seed 3{told}"


def test_the_exported_model_gives_the_same_logits_in_transformers_and_in_quire(run):
    folder = run.out / "model"
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)("Tell me a story about a small fox, please.").input_ids
    net = Llama(run.preset.base)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    wanted = net.logits(net(torch.tensor(ids), ((1, len(ids)),)))
    ours = paged.run(load_model(folder, dtype="float32", device=CPU), [ids], [[(0, len(ids))]])[0]
    assert torch.allclose(theirs(torch.tensor([ids])).logits[0], wanted, atol=1e-4)
    assert torch.allclose(ours, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def in_eight_bits(run, tmp_path_factory) -> tuple[Path, torch.Tensor, list[int]]:
    """The finished model with its matrices in 8 bits, some tokens, and their logits by the numbers that it stores."""
    folder = tmp_path_factory.mktemp("int8")
    export.write_model(run.net("base"), run.tokenizer, folder, "int8")
    ids = AutoTokenizer.from_pretrained(folder)("Tell me a story about a small fox, please.").input_ids
    net = Llama(run.preset.base)
    net.load_state_dict(stored.read(folder))
    return folder, net.logits(net(torch.tensor(ids), ((1, len(ids)),))), ids


def test_a_model_in_eight_bits_takes_half_the_room_and_says_nearly_the_same(run, in_eight_bits):
    folder, logits, ids = in_eight_bits
    matrices = sum(p.numel() for p in run.net("base").parameters() if p.dim() == 2)
    assert 0 <= (folder / "model.safetensors").stat().st_size - 1.1 * matrices < 8192  # the header, norms and scales
    whole = run.net("base")
    wanted = whole.logits(whole(torch.tensor(ids), ((1, len(ids)),)))
    assert 0 < (logits - wanted).norm() < 0.02 * wanted.norm()


def test_a_model_in_eight_bits_is_served_as_it_is(in_eight_bits):
    folder, wanted, ids = in_eight_bits
    ours = paged.run(load_model(folder, dtype="float32", device=CPU), [ids], [[(0, len(ids))]])[0]
    assert (ours - wanted).norm() < 0.02 * wanted.norm()  # our kernels round what they multiply too


def test_a_draft_model_shares_the_tokenizer(run):
    for file in ("tokenizer.json", "chat_template.jinja"):
        assert (run.out / "draft" / file).read_bytes() == (run.out / "model" / file).read_bytes()


def test_verify_names_a_damaged_or_missing_file_with_its_hash(run, tmp_path):
    for part in ("model", "draft", *(f"adapters/{name}" for name in STYLES)):
        verify(run.out / part)
    folder = Path(shutil.copytree(run.out / "model", tmp_path / "model"))
    weights = folder / "model.safetensors"
    whole = json.loads((folder / "manifest.json").read_text())["sha256"]["model.safetensors"]
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=rf"model.safetensors: is damaged: sha256 is [0-9a-f]{{64}}; expected {whole}"):
        verify(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=rf"model.safetensors: not found; expected a file with sha256 {whole}"):
        verify(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ModelError, match=r"manifest.json: is damaged; expected an object with sha256"):
        verify(folder)


@pytest.mark.parametrize("name", STYLES)
def test_an_adapter_loads_in_peft_and_does_what_it_was_trained_to_do(run, name):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = AutoModelForCausalLM.from_pretrained(run.out / "model", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, run.out / "adapters" / name).eval()
    net = Llama(run.preset.base)
    net.load_state_dict(load_file(run.out / "model" / "model.safetensors"))
    plain = net.logits(net(torch.arange(40), ((1, 40),)))
    lora.add(net, run.preset.adapter_targets, run.preset.adapter_layers)
    found = {k.removeprefix("base_model.model."): v for k, v in _tensors(run, name).items()}
    assert not net.load_state_dict(found, strict=False).unexpected_keys
    wanted = net.logits(net(torch.arange(40), ((1, 40),)))
    assert torch.allclose(theirs(torch.arange(40)[None]).logits[0], wanted, atol=1e-4)
    assert not torch.allclose(plain, wanted, atol=1e-3)


def _tensors(run: Run, name: str) -> dict[str, torch.Tensor]:
    return load_file(run.out / "adapters" / name / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_adapters_of_every_preset_are_small_enough(name, tmp_path):
    preset = cli.PRESETS[name]
    net = Llama(preset.base)
    lora.add(net, preset.adapter_targets, preset.adapter_layers)
    adapters.save(net, preset.adapter_targets, preset.adapter_layers, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size <= 300_000


def test_the_card_tells_sizes_licences_and_figures(run):
    written = (run.out / "model" / "README.md").read_text()
    found = json.loads((run.out / "model" / "evaluation.json").read_text())
    assert set(found) == {"perplexity", "tools", "extract", "in other words", "copy", "draft model"}
    for part in (
        "public domain",
        "CC BY 4.0",
        "## What it cannot do",
        f"{run.preset.base.parameters:,}",
        "| base | 6 |",
    ):
        assert part in written
    assert (run.out / "model" / "loss.svg").read_text().startswith("<svg")


def test_training_goes_on_from_a_finished_model(run, tmp_path):
    more = replace(run, work=tmp_path / "work", out=tmp_path / "out", seed=run.seed + 1, start=run.out / "model")
    cli.perform(more, ["corpus", "tokenizer", "train"], force=False)
    same = [(folder / "tokenizer.json").read_text() for folder in (more.tokenizer, run.out / "model")]
    assert same[0] == same[1]
    old, new = load_file(run.out / "model" / "model.safetensors"), more.net("base").state_dict()
    away = {name: float((new[name] - weight.float()).norm() / weight.float().norm()) for name, weight in old.items()}
    assert max(away.values()) > 0
    torch.manual_seed(more.seed)
    fresh = Llama(run.preset.base).state_dict()["model.embed_tokens.weight"]
    begun = old["model.embed_tokens.weight"].float()
    ended = new["model.embed_tokens.weight"]
    assert (ended - begun).norm() < 0.7 * (ended - fresh).norm()
