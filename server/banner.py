"""What `quire serve` says while it starts: progress of the load, then one block with all that matters."""

from __future__ import annotations

import json
import shlex
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..engine.client import EngineClient
from ..engine.messages import Ready
from .config import ServerConfig


def human(count: float) -> str:
    """Bytes for people: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


async def follow_load(engine: EngineClient) -> None:
    """Show the weights coming in until the engine is ready or has failed: a bar on a terminal, else plain lines."""
    if sys.stderr.isatty():
        columns = (TextColumn("loading"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("weights", total=None)
            while engine.state in ("starting", "restarting"):
                if engine.loading:
                    bar.update(task, completed=engine.loading.done, total=engine.loading.total)
                await engine.wait_change()
        return
    shown = -1
    while engine.state in ("starting", "restarting"):
        if engine.loading and engine.loading.total:
            tenth = 10 * engine.loading.done // engine.loading.total
            if tenth != shown:
                shown = tenth
                print(f"quire: loading {10 * tenth} % of {human(engine.loading.total)}", file=sys.stderr, flush=True)
        await engine.wait_change()


def ready_block(info: Ready, config: ServerConfig, *, url: str, chat: bool, template: str = "") -> str:
    """The block printed when the server answers. `chat`: the model has a chat template; template: what is to be said of
    it."""
    name = config.served_model_names[0]
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if chat else {"prompt": "Once upon a time"}
    body = shlex.quote(json.dumps({"model": name, **asked}, ensure_ascii=False))
    key = '-H "Authorization: Bearer $KEY" ' if config.api_keys else ""
    lines = [
        f"quire is serving {name}",
        f"  url        {url}/v1",
        f"  model      {config.model_path} ({info.architecture}, {human(info.weight_bytes)}, "
        f"loaded in {info.load_seconds:.1f} s)",
        f"  context    {info.max_model_len:,} tokens",
        f"  precision  {_precision(info)} on {info.device}",
        f"  page pool  {info.pool_tokens:,} tokens in {info.kept} ({human(info.kv_bytes)}): "
        f"{info.pool_tokens / info.max_model_len:.1f} requests of full length fit",
    ]
    if chat and template:
        lines.append(f"  template   {template}")
    if config.host not in ("127.0.0.1", "localhost", "::1") and not config.api_keys:
        lines.append(f"  warning    anyone who can reach {config.host} may use this server: no --api-key is set")
    lines.append(
        f"  try        curl {url}/v1/{'chat/' if chat else ''}completions {key}"
        f"-H 'Content-Type: application/json' -d {body}"
    )
    return "\n".join(lines)


def _precision(info: Ready) -> str:
    return info.dtype if info.weights == info.dtype else f"{info.weights} weights, computed in {info.dtype}"
