"""Whatever one client sends, it gets a clear answer, and everyone else's stream is untouched."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

BAD_COMPLETIONS = [
    ({"prompt": "x", "temperature": "hot"}, "temperature"),
    ({"prompt": "x", "temperature": -1}, "temperature"),
    ({"prompt": "x", "top_p": 2}, "top_p"),
    ({"prompt": "x", "n": 0}, "n"),
    ({"prompt": "x", "max_tokens": -5}, "max_tokens"),
    ({"prompt": "x", "logprobs": 10**6}, "logprobs"),
    ({"prompt": "x", "stop": 5}, "stop"),
    ({"prompt": "x", "logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"prompt": [1, 2, 10**9]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({}, "prompt"),
    ({"prompt": "x", "seed": "soon"}, "seed"),
    ({"prompt": "x", "response_format": {"type": "yaml"}}, "response_format"),
    ({"prompt": "x", "guided_json": {"type": "strange"}}, "guided_json"),
    ({"prompt": "x", "guided_regex": "(a"}, "guided_regex"),
    ({"prompt": "x", "suffix": "y"}, "suffix"),
]

BAD_BODIES = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"prompt": "x", "temperature": NaN}', b"{" * 5000]


@pytest.fixture(scope="module")
def url(stories_server):
    return f"{stories_server.url}/v1/completions"


@pytest.mark.parametrize(("body", "param"), BAD_COMPLETIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_bad_field_is_named(url, body, param):
    answer = httpx.post(url, json={"model": "stories", **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"].startswith(param)
    assert error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", BAD_BODIES)
def test_a_body_that_is_no_object_is_refused(url, body):
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_an_unknown_model_is_404(url):
    answer = httpx.post(url, json={"model": "gpt-9", "prompt": "x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "gpt-9" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2", 404), ("PUT", "/v1/completions", 405)])
def test_an_unknown_route_is_an_error_of_the_same_shape(stories_server, method, path, status):
    answer = httpx.request(method, stories_server.url + path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_storm_of_bad_requests_leaves_a_stream_untouched(url, golden):
    seen: list[str] = []

    def read() -> None:
        body = {"model": "stories", "prompt": [1], "max_tokens": 200, "temperature": 0, "stream": True}
        with httpx.stream("POST", url, json=body, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    seen.append(json.loads(line[6:])["choices"][0]["text"])

    thread = threading.Thread(target=read)
    thread.start()
    with httpx.Client() as client:
        for _ in range(3):
            for body, _param in BAD_COMPLETIONS:
                client.post(url, json={"model": "stories", **body})
            for content in BAD_BODIES:
                client.post(url, content=content)
    thread.join(60)
    assert "".join(seen) == golden["text"]


def test_keys_guard_everything_but_health(serve, stories):
    with serve(stories, "--served-model-name", "stories", "--api-key", "sesame") as server:
        server.wait_ready()
        body = {"model": "stories", "prompt": [1], "max_tokens": 2}
        url = f"{server.url}/v1/completions"
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.post(url, json=body).status_code == 401
        assert httpx.post(url, json=body, headers={"authorization": "Bearer wrong"}).status_code == 401
        for header in ({"authorization": "Bearer sesame"}, {"x-api-key": "sesame"}, {"api-key": "sesame"}):
            assert httpx.post(url, json=body, headers=header).status_code == 200
        cross = {"origin": "http://page.example", "access-control-request-method": "POST",
                 "access-control-request-headers": "authorization,content-type"}  # fmt: skip
        allowed = httpx.options(url, headers=cross)
        assert allowed.status_code == 200
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        refused = httpx.post(url, json=body, headers={"origin": "http://page.example"})
        assert refused.status_code == 401
        assert "access-control-allow-origin" in refused.headers
