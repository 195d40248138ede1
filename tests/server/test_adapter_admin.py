"""Who may change what is served, and the flags that say so."""

from __future__ import annotations

from typing import Any

import pytest
from adapters_over_http import (
    ADMIN,
    CHAT,
    HERE,
    LOAD,
    UNLOAD,
    serving,
)
from small_server import HELLO, error_of

from quire.engine.errors import ConfigError
from quire.server.cli import parser
from quire.server.config import LoraModule
from quire.server.flags import ENGINE, SERVER, resolve

# ---------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("config", "headers", "status"),
    [
        ({}, HERE, 404),  # may: the name is not known
        ({}, {"host": "127.0.0.1:8000"}, 404),
        ({}, {"host": "[::1]:8000"}, 404),
        ({"host": "::1"}, HERE, 404),
        ({"host": "localhost"}, HERE, 404),
        ({}, {**HERE, "authorization": "Bearer anything"}, 404),
        ({}, {**HERE, "sec-fetch-site": "none"}, 404),
        ({}, {**HERE, "origin": "http://page.example"}, 403),
        ({}, {**HERE, "origin": "null"}, 403),
        ({}, {**HERE, "origin": "http://localhost:8000"}, 403),
        ({}, {**HERE, "sec-fetch-site": "cross-site"}, 403),
        ({}, {**HERE, "sec-fetch-site": "same-origin"}, 403),
        ({}, {"host": "page.example"}, 403),
        ({}, {"host": "127.0.0.1.page.example:8000"}, 403),
        ({}, {"host": "[::1"}, 403),
        ({}, {"host": ""}, 403),
        ({}, {**HERE, "x-forwarded-for": "10.0.0.1"}, 403),
        ({}, {**HERE, "via": "1.1 proxy"}, 403),
        ({"host": "0.0.0.0"}, HERE, 403),
        ({"host": "::"}, HERE, 403),
        ({"host": "192.168.0.2"}, HERE, 403),
        ({"api_keys": ("user",)}, {**HERE, "authorization": "Bearer user"}, 403),
        ({"api_keys": ("user",)}, HERE, 401),
        ({"admin_keys": ("boss",)}, HERE, 401),
        ({"admin_keys": ("boss",)}, {**HERE, "authorization": "Bearer wrong"}, 401),
        ({"admin_keys": ("boss",)}, {"authorization": "Bearer boss", "host": "page.example"}, 404),
        ({"admin_keys": ("boss",)}, {"x-api-key": "boss", "origin": "http://page.example"}, 404),
        ({"admin_keys": ("boss", "chief")}, {"api-key": "chief"}, 404),
        ({"admin_keys": ("boss",), "host": "0.0.0.0"}, {"authorization": "Bearer boss"}, 404),
        ({"admin_keys": ("boss",), "api_keys": ("user",)}, {"authorization": "Bearer boss"}, 404),
        ({"admin_keys": ("boss",), "api_keys": ("user",)}, {"authorization": "Bearer user"}, 403),
        ({"admin_keys": ("boss",), "api_keys": ("user",)}, {"authorization": "Bearer wrong"}, 401),
        ({"admin_keys": ("boss",), "api_keys": ("user",)}, {}, 401),
    ],
)
def test_who_may_change_what_is_served(config, headers, status):
    with serving(**config) as server:
        for path, body in ((UNLOAD, {"lora_name": "x"}), (LOAD, {"lora_name": "x", "lora_path": "/no/such/folder"})):
            response = server.post(path, body, headers=headers)
            expected = 400 if status == 404 and path == LOAD else status
            error = error_of(response, expected)
            assert status == 404 or error["code"] == {401: "invalid_api_key", 403: "forbidden"}[status]
            assert status != 403 or "admin key" in error["message"]
            assert status != 403 or config.get("admin_keys") or "--admin-key" in error["message"]
        assert server.engine.calls == []


def test_who_may_not_is_told_before_the_body_is_read():
    with serving(host="0.0.0.0") as server:
        assert error_of(server.request("POST", LOAD, content=b"{"), 403)


def test_an_admin_key_is_an_api_key_and_alone_closes_nothing_else():
    with serving(admin_keys=("boss",), api_keys=("user",)) as server:
        assert server.post(CHAT, HELLO, headers={"authorization": "Bearer boss"}).status_code == 200
        assert server.post(CHAT, HELLO).status_code == 401
    with serving(admin_keys=("boss",)) as server:
        assert server.post(CHAT, HELLO).status_code == 200


def test_a_page_is_let_ask_but_not_do():
    """CORS is open: that the preflight succeeds must not be all that stands between a page and the server."""
    with serving() as server:
        page = {**HERE, "origin": "http://page.example", "access-control-request-method": "POST"}
        assert server.request("OPTIONS", LOAD, headers=page).status_code == 200
        plain = {**HERE, "origin": "http://page.example", "content-type": "text/plain"}
        error_of(server.request("POST", LOAD, content=b'{"lora_name": "x", "lora_path": "/"}', headers=plain), 403)


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
def test_without_an_engine_it_is_503(server, path):
    body = {"lora_name": "x", "lora_path": "/tmp"} if path == LOAD else {"lora_name": "x"}
    server.context.draining = True
    error_of(server.post(path, body, headers=ADMIN), 503)
    server.context.draining = False
    server.engine.state = "restarting"
    error_of(server.post(path, body, headers=ADMIN), 503)


# ---------------------------------------------------------------- flags


def resolved(*argv: str, **environ: str) -> dict[str, Any]:
    given = vars(parser().parse_args(["serve", "model", *argv]))
    return resolve(SERVER + ENGINE, given, environ)


def test_flags_and_their_variables():
    found = resolved(
        "--lora-modules", "a=/x/y=z", '{"name": "b", "path": "p q", "base_model_name": null}', "--lora-modules",
        "c=d/e", "--lora-dir", "dir", "--lora-hub", "--max-loras", "3", "--max-lora-rank", "8", "--lora-memory", "1G",
        "--admin-key", "boss",
    )  # fmt: skip
    assert found["lora_modules"] == (LoraModule("a", "/x/y=z"), LoraModule("b", "p q"), LoraModule("c", "d/e"))
    assert (found["lora_dir"], found["lora_hub"], found["admin_keys"]) == ("dir", True, ("boss",))
    assert (found["max_loras"], found["max_lora_rank"], found["lora_memory"]) == (3, 8, 2**30)
    found = resolved()
    assert (found["lora_modules"], found["lora_dir"], found["lora_hub"], found["admin_keys"]) == ((), None, False, ())
    assert resolved(QUIRE_LORA_MODULES="a=x,b=y c=z")["lora_modules"] == tuple(
        LoraModule(*pair) for pair in ("ax", "by", "cz")
    )
    one, two = '{"name": "a", "path": "p, q"}', '{"name": "b", "path": "x", "base_model_name": "base"}'
    assert resolved(QUIRE_LORA_MODULES=one)["lora_modules"] == (LoraModule("a", "p, q"),)
    assert resolved(QUIRE_LORA_MODULES=f"[{one}, {two}]")["lora_modules"] == (
        LoraModule("a", "p, q"), LoraModule("b", "x", "base"))  # fmt: skip
    weighted = resolved("--lora-modules", '{"name": "a", "path": "x", "weight": 2}')["lora_modules"]
    assert weighted == (LoraModule("a", "x", weight=2.0),)
    assert resolved(QUIRE_LORA_HUB="yes", QUIRE_ADMIN_KEY="a,b")["admin_keys"] == ("a", "b")


@pytest.mark.parametrize(
    "text",
    ["a", "=x", "a=", "", " = ", "{", "{}", "[]", '{"name": "a"}', '{"name": "a", "path": 5}',
     '{"name": "", "path": "x"}',
     '{"name": "a", "path": "x", "weight": 0}', '{"name": "a", "path": "x", "weight": true}',
     '{"name": "a", "path": "x", "rank": 8}', '{"name": "a", "path": ["x"]}',
     "[" * 100_000, '{"a":' * 100_000],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_module_that_is_none_is_refused_with_its_source(text):
    with pytest.raises(ConfigError, match="--lora-modules"):
        resolved(f"--lora-modules={text}")
    if text.strip() and text != "[]":  # of these the variable holds none
        with pytest.raises(ConfigError, match="QUIRE_LORA_MODULES"):
            resolved(QUIRE_LORA_MODULES=text)


@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_admin_key_is_none(key):
    with pytest.raises(ConfigError, match="--admin-key"):
        resolved(f"--admin-key={key}")
