"""Every error quire raises on purpose, one tree. Each knows its HTTP status, its type and its code.

QuireError
 |- ConfigError            a flag or setting            (start-up)
 |- ModelError             a model folder or its files  (start-up)
 |- RequestError           400: this request, and only this one, cannot be done
 |   |- ContextLengthExceeded
 |   |- GrammarRefused     a constraint that will not be enforced
 |   |   |- BeyondEngine   by one engine: another may do      (grammar/errors.py)
 |   |- GrammarFailed      one that became too much on its way (grammar/errors.py)
 |   |- ModelNotFound      404
 |   |- Unauthorized       401
 |   |- Forbidden          403
 |   |- TooLarge           413
 |- Overloaded             429
 |- EngineUnavailable      503: starting, restarting, draining
 |- EngineFailed           500: died or failed in mid-request
"""

from __future__ import annotations


class QuireError(Exception):
    """Base: `message` is for the person who caused it: what was found, what was expected."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class ConfigError(QuireError):
    """A setting that cannot be: names the field, what was found and what was expected."""

    code = "config_error"

    def __init__(self, field: str, found: str, expected: str):
        super().__init__(f"{field} {found}; expected {expected}", param=field)


class ModelError(QuireError):
    """A model folder that cannot be served: names the file, and the tensor or field in it."""

    code = "model_error"


class RequestError(QuireError):
    """This request cannot be done; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(RequestError):
    """Prompt, or prompt plus what was asked for, is longer than a sequence may be."""

    code = "context_length_exceeded"


class GrammarRefused(RequestError):
    """A constraint that will not be enforced. `path` says where in it: a JSON pointer, a line, or an offset."""

    code = "invalid_grammar"

    def __init__(self, message: str, *, path: str = "", param: str | None = None):
        super().__init__(f"{message} (at {path})" if path else message, param=param)
        self.path = path


class ModelNotFound(RequestError):
    status = 404
    code = "model_not_found"


class Unauthorized(RequestError):
    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    """Who asks is known, and may not."""

    status = 403
    code = "forbidden"


class TooLarge(RequestError):
    status = 413
    code = "request_too_large"


class Overloaded(QuireError):
    """The queue is full; `retry_after` in seconds."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1):
        super().__init__(message)
        self.retry_after = retry_after


class EngineUnavailable(QuireError):
    """Nothing can be sent now; `retry_after` in seconds, None where waiting would not mend it."""

    status = 503
    type = "service_unavailable_error"
    code = "engine_unavailable"
    retry_after: int | None = 2


class EngineFailed(QuireError):
    code = "engine_failed"


BY_CODE: dict[str, type[QuireError]] = {
    cls.code: cls
    for cls in (
        RequestError,
        ContextLengthExceeded,
        GrammarRefused,
        ModelNotFound,
        EngineUnavailable,
        EngineFailed,
        Overloaded,
    )
    if cls.code is not None
}


def from_code(code: str, message: str, param: str | None = None) -> QuireError:
    """The error a `Failed` message stands for."""
    error = BY_CODE.get(code, EngineFailed)(message)
    error.param = param
    return error
