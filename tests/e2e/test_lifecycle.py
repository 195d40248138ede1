"""Starting, dying and leaving: what the server does when things around it break."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest


def ask(server, **more):
    return {"model": "stories", "prompt": [1], "temperature": 0, **more}


def stream_of(server, seen: list[str], started: threading.Event, **more) -> None:
    """Read one stream to its end into `seen`."""
    body = ask(server, stream=True, **more)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data:"):
                seen.append(line[5:].strip())
                started.set()


def start_stream(server, **more) -> tuple[threading.Thread, list[str]]:
    seen: list[str] = []
    started = threading.Event()
    thread = threading.Thread(target=stream_of, args=(server, seen, started), kwargs=more, daemon=True)
    thread.start()
    assert started.wait(30)
    return thread, seen


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_an_idle_connection_stays_open_longer_than_those_who_keep_it(serve, stories):
    """Uvicorn would end it after 5 seconds, which breaks a request that is on its way just then."""
    with serve(stories) as server:
        server.wait_ready()
        address = httpx.URL(server.url)
        connection = http.client.HTTPConnection(address.host, address.port)
        for idle in (6.0, 0.0):
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            assert (response.status, response.will_close) == (200, False)
            time.sleep(idle)


def test_killed_engine_ends_streams_with_an_error_and_serves_again(serve, stories, golden):
    with serve(stories, "--served-model-name", "stories") as server:
        server.wait_ready()
        thread, seen = start_stream(server, max_tokens=450)
        os.kill(server.engine_pid(), signal.SIGSTOP)  # so that it is still running when it dies
        os.kill(server.engine_pid(), signal.SIGKILL)
        thread.join(30)
        assert not thread.is_alive()
        assert '"error"' in seen[-2]
        assert "signal 9" in seen[-2]
        assert seen[-1] == "[DONE]"
        ready = httpx.get(f"{server.url}/ready")
        assert ready.status_code == 503
        refused = httpx.post(f"{server.url}/v1/completions", json=ask(server, max_tokens=5))
        assert refused.status_code == 503
        assert httpx.get(f"{server.url}/health").status_code == 200
        until(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
        assert server.metric("quire:num_requests_running") == 0  # the dead engine's last word is forgotten
        again = httpx.post(f"{server.url}/v1/completions", json=ask(server, max_tokens=200), timeout=60).json()
        assert again["choices"][0]["text"] == golden["text"]


def test_an_engine_that_dies_before_the_first_token_gives_a_plain_error(serve, stories):
    with serve(stories, "--served-model-name", "stories") as server:
        server.wait_ready()
        os.kill(server.engine_pid(), signal.SIGSTOP)
        answers: list[httpx.Response] = []

        def post() -> None:
            answers.append(httpx.post(f"{server.url}/v1/completions", json=ask(server, stream=True), timeout=60))

        thread = threading.Thread(target=post)
        thread.start()
        until(lambda: server.metric("quire:prompts_in_flight") == 1)
        os.kill(server.engine_pid(), signal.SIGKILL)
        thread.join(30)
        assert answers[0].status_code == 500
        assert answers[0].json()["error"]["code"] == "engine_failed"


def test_sigterm_lets_streams_finish_and_refuses_new_requests(serve, stories, golden):
    with serve(stories, "--served-model-name", "stories", "--drain-timeout", "120") as server:
        server.wait_ready()
        engine = server.engine_pid()
        os.kill(engine, signal.SIGSTOP)
        seen: list[str] = []
        thread = threading.Thread(target=stream_of, args=(server, seen, threading.Event()), kwargs={"max_tokens": 200})
        thread.start()
        until(lambda: server.metric("quire:prompts_in_flight") == 1)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
        refused = httpx.post(f"{server.url}/v1/completions", json=ask(server, max_tokens=5))
        assert refused.status_code == 503
        assert refused.json()["error"]["message"]
        os.kill(engine, signal.SIGCONT)
        thread.join(110)
        assert seen[-1] == "[DONE]"
        assert [s for s in seen if '"error"' in s] == []
        assert server.process.wait(30) == 0


def test_a_killed_server_takes_its_engine_along_and_that_its_grammars(serve, stories):
    with serve(stories, "--served-model-name", "stories") as server:
        server.wait_ready()
        asked = ask(server, max_tokens=9, guided_regex="[a-z ]{1,9}")
        assert httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60).status_code == 200
        engine, (plain, other) = server.engine_pid(), server.grammar_pids()
        server.process.kill()
        server.process.wait()
        for process in (engine, plain, other):
            until(lambda process=process: not alive(process), 20)


@pytest.mark.parametrize(("which", "binds"), [(0, {"guided_choice": ["a", "b"]}), (1, {"guided_regex": "[a-z ]{1,9}"})])
def test_where_a_process_of_grammars_dies_only_their_answers_end(which, binds, serve, stories, golden):
    """Its answer ends with an error, a free one beside it does not notice, and the next one finds another process."""
    with serve(stories, "--served-model-name", "stories") as server:
        server.wait_ready()
        bound = ask(server, max_tokens=9, **binds)
        assert httpx.post(f"{server.url}/v1/completions", json=bound, timeout=60).status_code == 200
        os.kill(server.grammar_pids()[which], signal.SIGSTOP)  # so that its answer is under way when it dies
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}/v1/completions", json=bound, timeout=60))
        )
        thread.start()
        until(lambda: server.metric("quire:num_requests_running") == 1)
        free = httpx.post(f"{server.url}/v1/completions", json=ask(server, max_tokens=200), timeout=60).json()
        assert free["choices"][0]["text"] == golden["text"]
        assert thread.is_alive()
        os.kill(server.grammar_pids()[which], signal.SIGKILL)
        thread.join(30)
        assert answers[0].status_code == 503
        assert "signal 9" in answers[0].json()["error"]["message"]
        again = httpx.post(f"{server.url}/v1/completions", json=bound, timeout=60)
        assert again.status_code == 200
        assert server.metric("quire:engine_restarts_total") == 0


def run_serve(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quire.server.cli", "serve", *args], capture_output=True, text=True, timeout=120
    )


def test_a_taken_port_is_named(stories):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_serve(str(stories), "--port", str(port))
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("./no/such/folder",), "no/such/folder"),
        (("MODEL", "--max-model-len", "many"), "--max-model-len"),
        (("MODEL", "--max-model-len", "0"), "--max-model-len"),
        (("MODEL", "--max-model-len", "100000"), "--max-model-len"),
        (("MODEL", "--kv-cache-memory", "1"), "--kv-cache-memory"),
        (("MODEL", "--dtype", "float3"), "--dtype"),
        (("MODEL", "--chat-template", "./absent.jinja"), "absent.jinja"),
        (("MODEL", "--port", "99999"), "--port"),
    ],
)
def test_a_bad_start_is_one_clear_line(stories, args, named):
    done = run_serve(*(str(stories) if a == "MODEL" else a for a in args))
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_model_folder_names_its_file(tmp_path, stories):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((stories / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((stories / "model.safetensors").read_bytes()[:100_000])
    done = run_serve(str(tmp_path), "--port", "0")
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_the_api_process_import_no_torch():
    code = (
        "import sys; from quire.server import cli, app, serve, banner\n"
        "try: cli.main(['serve', '--help'])\n"
        "finally: print('torch and more:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: quire serve")
    assert done.stdout.endswith("torch and more: []\n")
