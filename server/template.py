"""Chat templates: Jinja in a sandbox, with the names and filters that Hugging Face templates expect."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from ..engine.errors import ModelError, RequestError


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks what the assistant says, for training; here it is its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class TemplateRefusal(jinja2.TemplateError):
    """The template itself called raise_exception."""


def _raise(message: str) -> None:
    raise TemplateRefusal(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(source: str) -> jinja2.Template:
    """Raises ModelError where the template is not Jinja."""
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"the chat template is not valid Jinja: {error.message} (line {error.lineno})") from None


def _copied(value: Any) -> Any:
    """A copy of any JSON value, down to its strings."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Raises RequestError with the template's own words where it refuses these messages, or cannot do with them.

    Some templates collect things in lists, which the sandbox lets them; so each rendering has values of its own.
    """
    try:
        return template.render(**_copied(variables))
    except TemplateRefusal as error:
        raise RequestError(f"the model's chat template refuses these messages: {error}", param="messages") from None
    except (RecursionError, OverflowError, MemoryError):
        raise RequestError(
            "the model's chat template does not come to an end on these messages", param="messages"
        ) from None
    except Exception as error:  # a template is a program: it may fail in any way
        raise RequestError(
            f"the model's chat template cannot render these messages: {type(error).__name__}: {error}", param="messages"
        ) from None
