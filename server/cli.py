"""`quire`: the command line. The only reader of argv and os.environ.

quire serve MODEL    serve a model folder or hub name
quire bench ...      load generator against a running server (clients/bench)
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Mapping, Sequence

from .. import __version__
from ..engine.errors import QuireError
from .flags import add_flags


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="quire", description="A local LLM inference server.")
    root.add_argument("--version", action="version", version=f"quire {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve a model",
        description="Serve a model over an OpenAI-compatible HTTP API. "
        "Each flag has an environment twin: --max-model-len is QUIRE_MAX_MODEL_LEN; the flag wins.",
    )
    serve.add_argument(
        "model", metavar="MODEL", nargs="?", help="a Hugging Face model folder, or a hub name [QUIRE_MODEL]"
    )
    add_flags(serve)
    commands.add_parser("bench", help="measure a running server", add_help=False)
    return root


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit status. An error a person caused is one line, never a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["bench"]:
        sys.argv = ["quire bench", *argv[1:]]
        runpy.run_module("quire.clients.bench", run_name="__main__", alter_sys=False)
        return 0
    args = parser().parse_args(argv)
    from .serve import serve

    try:
        return serve(vars(args), os.environ if environ is None else environ)
    except QuireError as error:
        print(f"quire: {error.message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
