"""Flags and their environment twins."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.engine.config import EngineConfig
from quire.engine.errors import ConfigError, QuireError
from quire.server import cli, flags
from quire.server.config import ServerConfig


def resolved(argv: list[str], environ: dict[str, str]) -> dict:
    given = vars(cli.parser().parse_args(["serve", "model", *argv]))
    return flags.resolve(flags.SERVER + flags.ENGINE, given, environ)


def test_the_flag_wins_over_the_environment_over_the_default():
    assert resolved([], {})["port"] == 8000
    assert resolved([], {"QUIRE_PORT": "9"})["port"] == 9
    assert resolved(["--port", "7"], {"QUIRE_PORT": "9"})["port"] == 7


def test_every_engine_flag_is_a_field_of_the_engine_config():
    values = flags.resolve(flags.ENGINE, {}, {})
    assert EngineConfig(model="x", **values)


def test_lists_come_from_repeated_flags_and_from_one_variable():
    assert resolved(["--api-key", "a", "b", "--api-key", "c"], {})["api_keys"] == ("a", "b", "c")
    assert resolved([], {"QUIRE_API_KEY": "a,b c"})["api_keys"] == ("a", "b", "c")


def test_a_switch_is_turned_by_its_flag_by_its_no_and_by_its_variable():
    assert resolved([], {})["prefix_caching"] is True
    assert resolved(["--no-prefix-caching"], {})["prefix_caching"] is False
    assert resolved([], {"QUIRE_PREFIX_CACHING": "no"})["prefix_caching"] is False
    assert resolved([], {})["enforce_eager"] is False
    assert resolved(["--enforce-eager"], {})["enforce_eager"] is True
    with pytest.raises(ConfigError, match="QUIRE_ENFORCE_EAGER is 'perhaps'; expected yes or no"):
        resolved([], {"QUIRE_ENFORCE_EAGER": "perhaps"})


@pytest.mark.parametrize(
    ("text", "count"), [("512", 512), ("1K", 1024), ("1.5G", 3 * 2**29), ("2GiB", 2**31), ("3mb", 3 * 2**20)]
)
def test_a_size_is_in_bytes_and_units_are_powers_of_1024(text, count):
    assert flags.size(text) == count


@pytest.mark.parametrize(
    ("name", "value"),
    [("--kv-cache-memory", "lots"), ("--kv-cache-memory", "-1G"), ("--kv-cache-memory", "inf"), ("--port", "http"),
     ("--dtype", "f8"), ("--gpu-memory-utilization", "most"), ("--kv-cache-memory", "G")],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_flag_and_with_its_variable(name, value):
    with pytest.raises(ConfigError, match=name):
        resolved([f"{name}={value}"], {})
    variable = "QUIRE_" + name[2:].upper().replace("-", "_")
    with pytest.raises(ConfigError, match=variable):
        resolved([], {variable: value})


def test_engines_of_grammars_are_named_by_kind():
    assert resolved([], {})["grammar_engines"] == {}
    wanted = {"regex": "llguidance", "choice": "outlines"}
    assert resolved(["--grammar-engine", "regex=llguidance, choice=outlines"], {})["grammar_engines"] == wanted
    assert resolved([], {"QUIRE_GRAMMAR_ENGINE": "regex=llguidance,choice=outlines"})["grammar_engines"] == wanted


@pytest.mark.parametrize("text", ["regex", "regex=", "=llguidance", "", "regex=a,", "regex=a,regex=b"])
def test_engines_that_are_not_told_by_kind_are_refused(text):
    with pytest.raises(ConfigError, match=r"--grammar-engine is .*expected KIND=ENGINE"):
        resolved([f"--grammar-engine={text}"], {})


@pytest.mark.parametrize(
    ("engines", "words"),
    [({"xml": "outlines"}, "kind 'xml'; expected one of json_schema"), ({"regex": "yacc"}, "llguidance or outlines"),
     ({"json_schema": "outlines"}, "gives json_schema to 'outlines'; expected llguidance")],
)  # fmt: skip
def test_a_kind_or_an_engine_that_cannot_be_is_named_with_what_can(engines, words):
    with pytest.raises(ConfigError, match=words):
        EngineConfig(model="x", grammar_engines=engines)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_key_does_not_open_the_server(text):
    with pytest.raises(ConfigError, match="--api-key"):
        resolved([f"--api-key={text}"], {})


@pytest.mark.parametrize("text", ["", "  ", ","])
@pytest.mark.parametrize("name", ["QUIRE_API_KEY", "QUIRE_ADMIN_KEY"])
def test_nor_does_a_variable_that_is_there_and_empty(name, text):
    with pytest.raises(ConfigError, match=f"{name}.*a key that is not empty"):
        resolved([], {name: text})
    assert resolved([], {"QUIRE_LORA_MODULES": ""})["lora_modules"] == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 1),
        ("prompt_chunk", 1),
        ("memory_utilization", 1.5),
        ("threads", 0),
        ("threads", 2000),
    ],
)
def test_a_setting_that_cannot_be_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        EngineConfig(model="x", **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_requests", 0),
        ("max_requests", -5),
        ("max_body_bytes", 0),
        ("drain_timeout", -1.0),
        ("drain_timeout", float("nan")),
        ("served_model_names", ("",)),
        ("served_model_names", ("a", "a")),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_a_setting_of_the_server_that_cannot_be_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"^{field} is .*; expected "):
        ServerConfig(**{"served_model_names": ("x",), field: value})


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--gpu-memory-utilization", "1.5"], {}, "--gpu-memory-utilization is 1.5; expected more than 0"),
        ([], {"QUIRE_MAX_NUM_SEQS": "0"}, "QUIRE_MAX_NUM_SEQS is 0; expected at least 1"),
        (["--max-num-seqs", "0"], {"QUIRE_MAX_NUM_SEQS": "8"}, "--max-num-seqs is 0;"),
        ([], {"QUIRE_SPECULATIVE_CONFIG": "{"}, "QUIRE_SPECULATIVE_CONFIG is '{'"),
        ([], {"QUIRE_SPECULATIVE_CONFIG": '{"suffix_tokens": 0}'}, "QUIRE_SPECULATIVE_CONFIG has 0 as suffix_tokens"),
        ([], {"QUIRE_SERVED_MODEL_NAME": "a,a"}, "QUIRE_SERVED_MODEL_NAME is 'a' 'a'"),
        ([], {"QUIRE_PORT": "70000"}, "QUIRE_PORT is 70000"),
    ],
)
def test_a_refusal_names_what_was_written(argv, environ, words, capsys):
    assert cli.main(["serve", *argv], environ) == 1
    assert capsys.readouterr().err.startswith(f"quire: {words}")


def test_so_does_one_that_comes_from_the_engine():
    told = QuireError("max_model_len is 99; expected at most 8", code=ConfigError.code)
    assert flags.as_written(told, {}, {"QUIRE_MAX_MODEL_LEN": "99"}).startswith("QUIRE_MAX_MODEL_LEN is 99;")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("QUIRE_MAX_MODEL_LENGTH", "QUIRE_MAX_MODEL_LEN"),
        ("QUIRE_NO_PREFIX_CACHING", "QUIRE_PREFIX_CACHING"),
        ("QUIRE_X", "QUIRE_"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check-template"])
def test_a_variable_that_nothing_reads_is_refused_with_the_nearest(command, name, near, capsys):
    assert cli.main([command, "./no/such/folder"], {name: "1"}) == 1
    assert capsys.readouterr().err.startswith(f"quire: {name} is no variable of quire; expected {near}")


def test_variables_that_are_read_or_come_from_elsewhere_are_taken():
    flags.check_variables({flag.env: "" for flag in flags.SERVER + flags.ENGINE})
    flags.check_variables(dict.fromkeys(("QUIRE_MODEL", "HOME", "quire_x", "QUIRE"), ""))
    flags.check_variables(dict.fromkeys(("QUIRE_UI_SERVICE_HOST", "QUIRE_UI_PORT", "QUIRE_UI_PORT_80_TCP_ADDR"), ""))


@pytest.mark.parametrize("argv", [["serve", "--max-model", "100"], ["check-template", "--chat", "x"]])
def test_a_flag_that_is_cut_short_is_refused(argv, capsys):
    with pytest.raises(SystemExit):
        cli.parser().parse_args(argv)
    assert f"unrecognized arguments: {argv[1]}" in capsys.readouterr().err


def test_the_page_of_flags_is_the_table_of_flags():
    page = Path(__file__).resolve().parents[2] / "docs" / "flags.md"
    assert flags.markdown() in page.read_text(encoding="utf-8")
