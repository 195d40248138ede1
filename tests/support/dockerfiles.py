"""Dockerfiles and .dockerignore as data: so much of their languages as the files of this project use."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDS = frozenset(
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split()
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """`COPY --from=wheel a b`: word COPY, flags {from: [wheel]}, rest "a b"."""

    word: str
    flags: dict[str, list[str]]
    rest: str

    @property
    def exec(self) -> list[str]:
        """The words of the JSON form. Raises ValueError for the shell form."""
        words = json.loads(self.rest)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{self.word} {self.rest}: expected a list of strings")
        return words

    @property
    def pairs(self) -> dict[str, str]:
        """The NAME=VALUE of ARG, ENV and LABEL. A name without a value is left out."""
        split = (word.partition("=") for word in shlex.split(self.rest))
        return {name: value for name, equals, value in split if equals}


@dataclass(frozen=True, slots=True)
class Stage:
    base: str
    name: str
    body: list[Instruction]

    def all(self, word: str) -> list[Instruction]:
        return [one for one in self.body if one.word == word]

    def last(self, word: str) -> Instruction:
        """The one that counts. Raises IndexError where there is none."""
        return self.all(word)[-1]

    def environment(self) -> dict[str, str]:
        return {name: value for one in self.all("ENV") for name, value in one.pairs.items()}


@dataclass(frozen=True, slots=True)
class Dockerfile:
    arguments: dict[str, str]  # of the ARGs before the first FROM
    stages: list[Stage]

    @property
    def image(self) -> Stage:
        return self.stages[-1]


def read(path: Path) -> Dockerfile:
    """Raises ValueError naming the line that is no instruction."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in _lines(path.read_text(encoding="utf-8")):
        word, _, rest = line.partition(" ")
        if word not in WORDS:
            raise ValueError(f"{path}: {line!r} begins with {word!r}; expected an instruction")
        flags: dict[str, list[str]] = {}
        rest = rest.strip()
        while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags.setdefault(found[1], []).append(found[2])
            rest = rest[found.end() :]
        one = Instruction(word, flags, rest)
        if word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], rest).partition(" AS ")
            stages.append(Stage(base, name, []))
        elif stages:
            stages[-1].body.append(one)
        elif word == "ARG":
            arguments.update(one.pairs)
        else:
            raise ValueError(f"{path}: {line!r} stands before the first FROM")
    return Dockerfile(arguments, stages)


def _lines(text: str) -> Iterator[str]:
    """Instructions, each on one line: comments are left out and what a backslash goes on with is joined."""
    joined = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        yield joined.strip()
        joined = ""
    if joined:
        raise ValueError(f"{joined!r} goes on with nothing")


class Ignore:
    """A .dockerignore: the last pattern that fits a path, or a folder it lies in, decides."""

    def __init__(self, text: str):
        lines = (line.strip() for line in text.splitlines() if not line.startswith("#"))
        self._patterns = [(line[0] == "!", _regex(line.lstrip("!"))) for line in lines if line]

    def __call__(self, path: str) -> bool:
        """Whether a path, with slashes and from the root of the context, stays behind."""
        parts = path.split("/")
        places = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        ignored = False
        for kept, pattern in self._patterns:
            if any(pattern.fullmatch(place) for place in places):
                ignored = not kept
        return ignored


def _regex(pattern: str) -> re.Pattern[str]:
    """Go's filepath.Match, and `**` for any number of folders."""
    out = ""
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]*\]|\\.|.", pattern.strip("/")):
        match piece:
            case "**/":
                out += "(?:.*/)?"
            case "**":
                out += ".*"
            case "*":
                out += "[^/]*"
            case "?":
                out += "[^/]"
            case _ if piece[0] == "[":
                out += piece
            case _:
                out += re.escape(piece[-1])
    return re.compile(out)


def context(root: Path) -> list[str]:
    """The files of a folder that go to a build, sorted."""
    ignored = Ignore((root / ".dockerignore").read_text(encoding="utf-8"))
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in names if not ignored(name))
