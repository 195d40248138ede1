"""`quire`: the command line. The only reader of argv and os.environ.

quire serve [MODEL]  serve a model folder, GGUF file or hub name; without one the embedded model
quire check-template MODEL   what its chat template does, and whether its answers can be read
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
from .flags import TEMPLATE, add_flags, as_written, check_variables


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="quire", description="A local LLM inference server.", allow_abbrev=False)
    root.add_argument("--version", action="version", version=f"quire {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="serve a model",
        description="Serve a model over an OpenAI-compatible HTTP API. "
        "Each flag has an environment twin: --max-model-len is QUIRE_MAX_MODEL_LEN; the flag wins.",
    )
    serve.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a Hugging Face model folder, a GGUF file, or a hub name [QUIRE_MODEL, pocket]",
    )
    add_flags(serve)
    look = commands.add_parser(
        "check-template",
        allow_abbrev=False,
        help="report on a model's chat template",
        description="What a model's chat template does with conversations, tools and thoughts, and whether what it "
        "writes can be read. The exit status is 1 if there is a warning.",
    )
    look.add_argument(
        "model", metavar="MODEL", nargs="?", help="a Hugging Face model folder, a GGUF file, or a hub name [pocket]"
    )
    add_flags(look, {"server": TEMPLATE})
    commands.add_parser("bench", help="measure a running server", add_help=False, allow_abbrev=False)
    return root


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command; returns the exit status. An error a person caused is one line, never a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["bench"]:
        sys.argv = ["quire bench", *argv[1:]]
        runpy.run_module("quire.clients.bench", run_name="__main__", alter_sys=False)
        return 0
    args = parser().parse_args(argv)
    given, environ = vars(args), os.environ if environ is None else environ
    try:
        check_variables(environ)
        if args.command == "check-template":
            from .check_template import check_template

            return check_template(given, environ)
        from .serve import serve

        return serve(given, environ)
    except QuireError as error:
        print(f"quire: {as_written(error, given, environ)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the server handles signals itself
        return 130


if __name__ == "__main__":
    sys.exit(main())
