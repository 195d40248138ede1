"""The Dockerfiles hold what docs/docker.md promises, as far as that can be seen without an engine that builds them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import dockerfiles
import pytest
from dockerfiles import Dockerfile

import quire
from quire.server import cli, flags, gguf

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_A_GPU = {"TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "NVIDIA_DRIVER_CAPABILITIES"}


def seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def run(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A RUN of the shell form, as the build runs it."""
    return subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env})


def test_every_stage_stands_on_a_release_of_a_python_that_quire_runs_on(image: Dockerfile):
    for stage in image.stages:
        found = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-[a-z]+", stage.base)
        assert found, stage.base
        assert (int(found[1]), int(found[2])) >= (3, 11)
        assert PROJECT["requires-python"] == ">=3.11"


def test_who_serves_is_not_root_and_its_group_is_roots(image: Dockerfile):
    user, _, group = image.image.last("USER").rest.partition(":")
    assert int(user) > 0  # a number: what starts containers can tell that it is not root
    assert group == "0"
    assert image.image.body.index(image.image.last("USER")) > image.image.body.index(image.image.last("RUN"))
    made = " ".join(one.rest for one in image.image.all("RUN") if "useradd" in one.rest)
    assert f"--uid {user} --gid 0 " in made
    (volume,) = image.image.last("VOLUME").exec
    home = image.image.environment()["HOME"]
    assert re.search(rf"chmod 2775 {volume} {home}(\s|$)", made)  # others of the group may write
    assert image.image.last("WORKDIR").rest == home


def test_it_starts_stops_and_is_watched(image: Dockerfile, docker: Path):
    assert image.image.last("ENTRYPOINT").exec == ["quire", "serve"]
    assert image.image.last("CMD").exec == []
    assert image.image.last("STOPSIGNAL").rest == "SIGTERM"
    check = image.image.last("HEALTHCHECK")
    assert check.rest.startswith("CMD [")  # no shell between
    assert seconds(check.flags["start-period"][0]) >= 600  # a model may be fetched before the server listens
    allowed = re.search(r"^SECONDS = (\d+)", (docker / "healthcheck.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert allowed
    assert seconds(check.flags["timeout"][0]) > float(allowed[1])
    assert check.rest.endswith('"/opt/quire/healthcheck.py"]')
    (copied,) = (one for one in image.image.all("COPY") if not one.flags.get("from"))
    assert copied.rest == "docker/healthcheck.py /opt/quire/healthcheck.py"
    assert copied.flags["chmod"] == ["0644"]  # whatever the file's mode is where it is built


@pytest.mark.parametrize("more", [[], ["/models/mine"], ["owner/name", "--max-model-len", "4096"]])
def test_what_the_container_is_started_with_is_taken_by_quire(image: Dockerfile, more: list[str]):
    """Arguments of `docker run` take the place of CMD, never of where the server listens."""
    stage = image.image
    program, *argv = stage.last("ENTRYPOINT").exec
    given = vars(cli.parser().parse_args([*argv, *(more or stage.last("CMD").exec)]))
    found = flags.resolve(flags.SERVER + flags.ENGINE, given, stage.environment())
    assert program in PROJECT["scripts"]
    assert found["host"] == "0.0.0.0"
    assert str(found["port"]) == stage.last("EXPOSE").rest
    assert given["model"] == (more[0] if more else None)


def test_a_variable_of_quire_is_the_twin_of_a_flag(image: Dockerfile):
    ours = {name for name in image.image.environment() if name.startswith("QUIRE_")}
    assert ours == {"QUIRE_HOST"} <= {flag.env for flag in flags.SERVER}


def test_all_that_is_kept_is_kept_in_the_volume(image: Dockerfile):
    environ = image.image.environment()
    (volume,) = image.image.last("VOLUME").exec
    show = "from huggingface_hub import constants as c; print(c.HF_HUB_CACHE, c.HF_TOKEN_PATH, c.HF_XET_CACHE)"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, env={**clean, **environ})
    places = [*done.stdout.split(), str(gguf.cache(environ))]
    places += [environ[name] for name in sorted(OF_A_GPU & environ.keys()) if name.endswith(("_DIR", "_PATH"))]
    assert len(places) >= 4, done.stderr
    assert [place for place in places if not Path(place).is_relative_to(volume)] == []


def test_what_is_copied_is_there_and_goes_to_the_build(image: Dockerfile):
    sent = dockerfiles.context(ROOT)
    names = [stage.name for stage in image.stages]
    for i, stage in enumerate(image.stages):
        for one in stage.all("COPY"):
            *sources, _ = one.rest.split()
            for source in sources:
                if not one.flags.get("from"):
                    assert source == "." or source in sent, source
                    continue
                made = image.stages[names[:i].index(one.flags["from"][0])].last("RUN").rest
                assert source in made, f"{source} is not made by {made}"


def test_labels_say_what_the_package_says(image: Dockerfile):
    labels = {name.removeprefix("org.opencontainers.image."): v for name, v in image.image.last("LABEL").pairs.items()}
    assert labels["title"] == PROJECT["name"]
    assert labels["version"] == quire.__version__
    assert labels["licenses"] == PROJECT["license"]
    assert labels["description"]


def test_no_secret_and_no_index_is_written_into_the_images(image: Dockerfile):
    given = {**image.arguments}
    for stage in image.stages:
        given |= stage.environment() | {k: v for one in stage.all("ARG") for k, v in one.pairs.items()}
    assert [name for name in given if re.search("KEY|TOKEN|PASS|SECRET|INDEX", name)] == []
    assert "://" not in json.dumps([one.rest for stage in image.stages for one in stage.body])


def test_the_images_differ_in_torch_and_in_what_a_gpu_needs_only(images: dict[str, Dockerfile]):
    cpu, cuda = images["cpu"], images["cuda"]
    assert cpu.arguments == cuda.arguments
    assert cpu.stages[:-1] == cuda.stages[:-1]
    plain = [[one for one in f.image.body if one.word not in ("RUN", "ARG", "ENV")] for f in (cpu, cuda)]
    assert plain[0] == plain[1]
    assert cpu.image.all("RUN")[-2:] == cuda.image.all("RUN")[-2:]  # the user, and the look at what was made
    few, many = cpu.image.environment(), cuda.image.environment()
    assert few.items() <= many.items()
    assert many.keys() - few.keys() == OF_A_GPU


def test_what_quire_needs_is_what_pyproject_says(images: dict[str, Dockerfile], tmp_path: Path):
    """The build's own command; and of its lines the build for CPUs takes torch's."""
    for image in images.values():
        (needs,) = (stage for stage in image.stages if stage.name == "needs")
        done = run(needs.last("RUN").rest.replace("/requirements.txt", f"{tmp_path}/requirements.txt"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]
    (torch,) = (need for need in PROJECT["dependencies"] if re.match(r"torch\b", need))
    installs = next(one.rest for one in images["cpu"].image.all("RUN") if "TORCH_INDEX_URL" in one.rest)
    found = re.search(r"\$\((grep [^)]*)\)", installs)
    assert found
    assert run(found[1].replace("/opt/quire/requirements.txt", f"{tmp_path}/requirements.txt")).stdout.split() == [
        torch
    ]


@pytest.mark.parametrize(("kind", "is_cuda", "stops"), [("cpu", True, True), ("cpu", False, False),
                                                         ("cuda", True, False), ("cuda", False, True)])  # fmt: skip
def test_the_wrong_build_of_torch_stops_the_build(images, kind: str, is_cuda: bool, stops: bool, tmp_path: Path):
    """Run with a pip that does nothing and a torch that says which build it is."""
    (tmp_path / "pip").write_text("#!/bin/sh\necho pip $*\n")
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "torch.py").write_text("class version:\n    cuda = " + repr("13.0" if is_cuda else None))
    command = next(one.rest for one in images[kind].image.all("RUN") if "torch.version" in one.rest)
    command = command.replace("/opt/quire/requirements.txt", str(ROOT / "pyproject.toml"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(command, PATH=path, PYTHONPATH=str(tmp_path), TORCH_INDEX_URL="file:///index")
    assert (done.returncode != 0) == stops, done.stderr
    assert ("torch is the build for" in done.stderr) == stops
    if kind == "cpu":
        done = run(command, PATH=path, PYTHONPATH=str(tmp_path), TORCH_INDEX_URL="")
        assert done.returncode != 0
        assert "TORCH_INDEX_URL: is not given" in done.stderr
        assert "pip install" not in done.stdout


def test_the_reader_refuses_what_is_no_dockerfile(tmp_path: Path):
    bad = tmp_path / "Dockerfile"
    for text, words in (
        ("FORM python", "'FORM'"),
        ("RUN x\nFROM y", "before the first FROM"),
        ("FROM x\nRUN a \\", "on"),
    ):
        bad.write_text(text)
        with pytest.raises(ValueError, match=words):
            dockerfiles.read(bad)
    with pytest.raises(ValueError, match="Expecting value"):
        _ = dockerfiles.Instruction("CMD", {}, "quire serve").exec
