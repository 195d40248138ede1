"""What every route works with, put together once in app.py and found on `app.state.quire`."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from starlette.requests import Request

from ..engine.client import EngineClient
from ..engine.errors import EngineUnavailable, Overloaded, RequestError
from ..engine.messages import Ready
from .adapters import Adapters
from .config import ServerConfig
from .dialect import Dialects
from .held import held
from .metrics import Metrics
from .openai.params import ParamsMaker
from .prompt import Renderer
from .tokenizer import Tokenizer

MANY = 8192  # items that are soon looked at
READ = ["GET", "HEAD"]  # methods of a route that only shows something


@dataclass(slots=True)
class Context:
    config: ServerConfig
    engine: EngineClient
    tokenizer: Tokenizer
    renderer: Renderer
    dialects: Dialects
    params: ParamsMaker
    metrics: Metrics
    adapters: Adapters
    started: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False  # no new requests; those that run may finish
    open: int = 0  # requests for answers whose bodies are here and which are not through

    def serving(self) -> Ready:
        """What the engine said of itself. Raises EngineUnavailable where nothing new may begin."""
        if self.draining:
            raise EngineUnavailable("the server is shutting down; streams that run may finish")
        if self.engine.state != "ready" or self.engine.info is None:
            raise self.engine.unavailable()
        return self.engine.info

    def admit(self) -> Ready:
        """May a request come in? Decided before anything is parsed. Raises EngineUnavailable or Overloaded."""
        info = self.serving()
        if self.open >= self.config.max_requests:
            raise Overloaded(f"{self.open} requests are in flight; at most {self.config.max_requests} may")
        return info

    def enter(self, http: Request, prompts: int, n: int) -> None:
        """Count a request until it is through, however many prompts it has and n answers to each. Raises RequestError
        where it is more than the engine could ever queue, which no waiting would mend; and as `admit` does."""
        most, queue = self.config.max_requests, self.engine.config.max_waiting
        if prompts > most:
            raise RequestError(
                f"prompt: there are {prompts}; a request may have {most} (--max-requests)", param="prompt"
            )
        if prompts * n > queue:
            found = f"{prompts} prompts with n {n} are {prompts * n} answers" if prompts > 1 else f"it is {n}"
            param = "prompt" if prompts > 1 else "n"
            raise RequestError(f"{param}: {found}; {queue} can queue (--max-waiting)", param=param)
        self.admit()
        self.open += 1
        held(http).callback(self._leave)

    def _leave(self) -> None:
        self.open -= 1

    def most_items(self) -> int:
        """Of a list in a body: no request that can be served has more messages, or ids, or prompts."""
        positions = self.engine.info.max_model_len if self.engine.info is not None else 0
        return max(positions, self.config.max_requests, MANY)

    async def model(self, name: str) -> str:
        """The served name a request means, the base's or an adapter's; loads nothing. Raises ModelNotFound."""
        served = self.config.served_model_names
        if name and name not in served and await self.adapters.find(name) is None:
            raise self.adapters.unknown(name)
        return name or served[0]


def context(http: Request) -> Context:
    found: Context = http.app.state.quire
    return found


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"
