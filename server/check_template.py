"""`quire check-template MODEL`: what a chat template does, and how answers will be read. No engine, no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .dialect import Dialect
from .flags import TEMPLATE, resolve, template_text
from .prompt import Renderer
from .serve import embedded, find_model
from .tokenizer import Tokenizer
from .tools import PARSERS
from .tools.check import check


def summary(renderer: Renderer, tokenizer: Tokenizer, dialect: Dialect) -> str:
    """In a line: how answers are read, and how many warnings the report has."""
    warnings = sum(not finding.ok for finding in check(renderer, tokenizer, dialect.format, dialect.reasoning))
    told = f"; {warnings} warning{'s' * (warnings > 1)}: quire check-template MODEL" if warnings else ""
    return f"{dialect}{told}"


def check_template(given: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Print the report; 0 if nothing in it is a warning. Raises QuireError for what cannot be read."""
    flags = resolve(TEMPLATE, given, environ)
    folder = find_model(given["model"], environ) if given.get("model") else embedded()
    tokenizer = Tokenizer.load(folder)
    renderer = Renderer(tokenizer, template_text(flags["chat_template"]))
    source = renderer.source(tools=True)
    if not source:
        print(f"quire: {folder} has no chat template; give one with --chat-template", file=sys.stderr)
        return 1
    dialect = Dialect.of(source, tokenizer, flags["tool_call_parser"], flags["reasoning_parser"])
    print(dialect)
    findings = check(renderer, tokenizer, dialect.format, dialect.reasoning)
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'warn'}  {finding.about:{width}}  {finding.text}")
    print(f"--tool-call-parser takes: {', '.join(PARSERS)}")
    return 0 if all(finding.ok for finding in findings) else 1
