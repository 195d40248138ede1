"""The real chat templates: which format and which kind of thoughts each has, and that what it writes can be read."""

from __future__ import annotations

from typing import Any

import pytest
from vocabularies import byte_level, template, templates, vocabulary_of

from quire.engine.errors import RequestError
from quire.server import reasoning
from quire.server import template as jinja
from quire.server.prompt import Prompt, Renderer
from quire.server.tools import choose
from quire.server.tools.check import CALLS, TOOLS, assistant_part, calls_in, check

FORMATS: dict[str, tuple[str | None, str]] = {  # template -> (format of tool calls, kind of thoughts)
    "Apertus-8B-Instruct": ("apertus", "apertus"),
    "Apriel-1.6-15b-Thinker-fixed": ("apriel", "apriel"),
    "Bielik-11B-v3.0-Instruct": ("hermes", "think"),
    "ByteDance-Seed-OSS": ("seed_oss", "seed_oss"),
    "Cohere2MoE": ("cohere", "cohere"),
    "CohereForAI-c4ai-command-r-plus-tool_use": ("command_r", "none"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("cohere", "cohere"),
    "GLM-4.6": ("glm45", "think"),
    "GLM-4.7-Flash": ("glm47", "think"),
    "GigaChat3-10B-A1.8B": ("gigachat3", "none"),
    "GigaChat3.1-10B-A1.8B": ("gigachat31", "none"),
    "HuggingFaceTB-SmolLM3-3B": (None, "think"),
    "Kimi-K2-Instruct": ("kimi_k2", "none"),
    "Kimi-K2-Thinking": ("kimi_k2", "think"),
    "LFM2-8B-A1B": ("lfm2", "none"),
    "LFM2.5-8B-A1B": ("lfm2", "think"),
    "LFM2.5-Instruct": ("lfm2", "think"),
    "MiMo-VL": ("hermes", "none"),
    "MiniMax-M2": ("minimax_m2", "think"),
    "MiniMax-M3": ("minimax_m3", "minimax_m3"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral_call_id", "none"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen3_coder", "think"),
    "NVIDIA-Nemotron-Nano-v2": ("nemotron", "think"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", "none"),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", "none"),
    "Qwen-QwQ-32B": ("hermes", "think"),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", "none"),
    "Qwen-Qwen3-0.6B": ("hermes", "think"),
    "Qwen3-Coder": ("qwen3_coder", "none"),
    "Qwen3.5-4B": ("qwen3_coder", "think"),
    "Reka-Edge": ("hermes", "think"),
    "StepFun3.5-Flash": ("qwen3_coder", "think"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("deepseek_v3", "think"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek_v3", "think"),
    "deepseek-ai-DeepSeek-V3.1": ("deepseek_v31", "think"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek_v32", "think"),
    "deepseek-ai-DeepSeek-V4": ("deepseek_v4", "think"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("deepseek_v4", "think"),
    "fireworks-ai-llama-3-firefunction-v2": ("firefunction", "none"),
    "google-gemma-2-2b-it": (None, "none"),
    "google-gemma-4-31B-it": ("gemma4", "gemma4"),
    "google-gemma-4-31B-it-interleaved": ("gemma4", "gemma4"),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "granite"),
    "ibm-granite-granite-4.0": ("hermes", "none"),
    "ibm-granite-granite-4.1": ("hermes", "none"),
    "llama-cpp-deepseek-r1": ("deepseek_v3", "think"),
    "llama-cpp-rwkv-world": (None, "think"),
    "meetkai-functionary-medium-v3.1": ("functionary_v31", "none"),
    "meetkai-functionary-medium-v3.2": ("functionary_v32", "none"),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3_json", "none"),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3_json", "none"),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama3_json", "none"),
    "microsoft-Phi-3.5-mini-instruct": (None, "none"),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral", "mistral"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral_old", "none"),
    "moonshotai-Kimi-K2": ("kimi_k2", "none"),
    "openai-gpt-oss-120b": ("openai", "openai"),
    "openbmb-MiniCPM5-1B": ("minicpm5", "think"),
    "poolside-Laguna-S-2.1": ("glm47", "think"),
    "poolside-Laguna-XS-2.1": ("glm45", "think"),
    "poolside-Laguna-XS.2": ("glm45", "think"),
    "tencent-Hy3": ("hunyuan_v3", "hunyuan_v3"),
    "unsloth-Apriel-1.5": ("apriel", "apriel"),
    "unsloth-mistral-Devstral-Small-2507": ("mistral", "none"),
    "upstage-Solar-Open-100B": ("solar_open", "solar_open"),
}
SILENT = {  # templates that show no calls of the history
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "ibm-granite-granite-3.3-2B-Instruct",
}
SINGLE = {  # templates that show one call of a message, or refuse more
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "openai-gpt-oss-120b",
}
UNTOLD = {
    "llama-cpp-deepseek-r1",
    "fireworks-ai-llama-3-firefunction-v2",
}  # they cannot show tools as requests have them
UNSHOWN = {  # messages whose calls the prompt lacks: these templates show content or calls
    ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "Let me see."),
    ("llama-cpp-deepseek-r1", "Let me see."),
}
WANTED: list[tuple[str, Any]] = [
    ("get_weather", {"city": 'Köln "x"', "days": 3, "exact": True, "where": {"lat": 1.5}, "tags": ["a", "b"]}),
    ("get_time", {"zone": "CET"}),
]
GIVEN = {"functions": "[]", "datetime": "today"}  # what firefunction wants
EVERY = templates() or [pytest.param("", marks=pytest.mark.skip("shared/data/chat-templates is not beside this"))]
WITH_TOOLS = [name for name in templates() if FORMATS[name][0] and name not in SILENT] or EVERY


@pytest.mark.parametrize("name", EVERY)
def test_a_template_tells_its_formats(name: str) -> None:
    format, kind = FORMATS[name]
    chosen = choose(template(name))
    assert (chosen.name if chosen else None) == format
    assert reasoning.choose(template(name)).name == kind


class Given(Renderer):
    """A renderer that gives a template what it wants besides, and no tools where it cannot show them."""

    untold = False

    def render(self, *args: Any, tools: Any = None, **more: Any) -> Prompt:
        return super().render(*args, tools=None if self.untold else tools, template_kwargs=GIVEN, **more)


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_the_parser_reads_what_the_template_writes(name: str, content: str | None) -> None:
    renderer = Given(vocabulary_of(name).ours, template(name))
    renderer.untold = name in UNTOLD
    format = choose(template(name))
    assert format is not None
    count = 1 if name in SINGLE else 2
    _, text = assistant_part(renderer, {"role": "assistant", "content": content, "tool_calls": CALLS[:count]}, TOOLS)
    assert calls_in(format, text) == ([] if (name, content) in UNSHOWN else WANTED[:count])


@pytest.mark.parametrize("name", sorted({name for name, _ in UNSHOWN} & set(templates())))
def test_a_template_that_wants_arguments_as_text_is_read_too(name: str) -> None:
    messages = [{"role": "assistant", "content": None if "Distill" in name else "", "tool_calls": CALLS}]
    text = jinja.render(jinja.compile_template(template(name)), {"messages": messages})
    format = choose(template(name))
    assert format is not None
    assert calls_in(format, text) == WANTED


@pytest.mark.parametrize("name", sorted(SINGLE & set(templates())))
def test_a_template_of_one_call_has_a_format_of_one_call(name: str) -> None:
    format = choose(template(name))
    assert format is not None
    assert format.structure(TOOLS, "required").at_most_one


@pytest.mark.parametrize("name", EVERY)
def test_every_template_can_be_checked(name: str) -> None:
    words = vocabulary_of(name)
    findings = check(
        Renderer(words.ours, template(name)), words.ours, choose(template(name)), reasoning.choose(template(name))
    )
    about = {finding.about: finding for finding in findings}
    assert {"generation prompt", "empty content", "system turn", "special tokens"} <= set(about)
    assert all(finding.text for finding in findings)
    if "control" in about["special tokens"].text:
        assert about["special tokens"].ok


def test_a_good_template_has_no_warnings() -> None:
    if "Qwen-Qwen3-0.6B" not in templates():
        pytest.skip("shared/data/chat-templates is not beside this checkout")
    words, source = vocabulary_of("Qwen-Qwen3-0.6B"), template("Qwen-Qwen3-0.6B")
    findings = check(Renderer(words.ours, source), words.ours, choose(source), reasoning.choose(source))
    assert [f for f in findings if not f.ok] == []
    assert "the parser reads what the template writes" in {f.text for f in findings}


BAD = "{% for m in messages %}{{ m.role }}: {{ m.get('content') }}{{ m.tool_calls }}<tool_call>{% endfor %}"


def test_a_bad_template_is_told_what_is_wrong_with_it() -> None:
    words = vocabulary_of_bad()
    findings = check(Renderer(words, BAD), words, choose(BAD), reasoning.choose("<think>"))
    told = {f.about: f.text for f in findings if not f.ok}
    assert "no difference" in told["generation prompt"]
    assert "None" in told["null content beside a call"]
    assert "not shown" in told["tools"]
    assert "the parser found" in told["tool round trip"]
    assert "thinking" not in told


def vocabulary_of_bad() -> Any:
    return byte_level(("<tool_call>",)).ours


def test_a_template_that_refuses_everything_gives_findings_and_no_error() -> None:
    source = "{{ raise_exception('never') }}"
    words = vocabulary_of_bad()
    with pytest.raises(RequestError):
        Renderer(words, source).render([{"role": "user", "content": "x"}])
    findings = check(Renderer(words, source), words, choose("<tool_call>"), reasoning.choose("<think>"))
    assert not any(f.ok for f in findings)
