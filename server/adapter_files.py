"""Names of adapters and the folders behind them. A name that comes with a request never leads out of --lora-dir."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..engine.errors import EngineUnavailable, ModelNotFound, RequestError

T = TypeVar("T")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LONGEST_NAME = 200  # characters
MAX_LINKS = 8  # that are followed from one adapter to another
_PART = r"\w[\w.:@+-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_HUB_NAME = re.compile(rf"{_PART}/{_PART}")


def is_name(text: str) -> bool:
    """Whether an adapter may be called so: parts of letters, digits and _ . : @ + -, none of which begins with a dot,
    between single slashes."""
    return len(text) <= LONGEST_NAME and _NAME.fullmatch(text) is not None


def is_hub_name(text: str) -> bool:
    """Whether it looks like owner/name."""
    return len(text) <= LONGEST_NAME and _HUB_NAME.fullmatch(text) is not None


def found_in(root: Path, name: str) -> Path | None:
    """The adapter that is the folder `name` of `root` (a real path), or None. A link is followed to another folder of
    root only, and the files are not links: nothing outside is looked at."""
    if not is_name(name) or "/" in name:
        return None
    folder = root / name
    try:
        for _ in range(MAX_LINKS):
            mode = folder.lstat().st_mode
            if not stat.S_ISLNK(mode):
                break
            folder = Path(os.path.normpath(root / os.readlink(folder)))
            if folder.parent != root:
                return None
        if not stat.S_ISDIR(mode) or not stat.S_ISREG((folder / CONFIG).lstat().st_mode):
            return None
        try:
            whole = stat.S_ISREG((folder / WEIGHTS).lstat().st_mode)
        except FileNotFoundError:  # whoever reads the adapter says what is there instead
            whole = True
    except OSError:
        return None
    return folder if whole else None


def names_in(root: Path) -> list[str]:
    """All names that `found_in` finds, sorted."""
    try:
        entries = sorted(entry.name for entry in os.scandir(root))
    except OSError:
        return []
    return [name for name in entries if found_in(root, name) is not None]


def folder_of(path: str, *, hub: bool) -> str:
    """The folder that an operator named: any on this machine, or a hub name's download where that is allowed. It may
    take as long as a download does. Raises RequestError."""
    try:
        folder = Path(path).expanduser()
        if folder.is_dir():
            return str(folder.resolve())
        there = folder.exists()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL; RuntimeError: ~ of nobody
        raise RequestError(f"{path!r:.300} cannot be read ({error}); expected an adapter's folder") from None
    if there:
        raise RequestError(f"{path} is a file; expected an adapter's folder, with {CONFIG} and {WEIGHTS}")
    if not is_hub_name(path):
        raise RequestError(f"{path:.300}: no such folder")
    if not hub:
        raise RequestError(f"{path}: no such folder; hub names are taken where the server has --lora-hub")
    return download(path)


def download(name: str) -> str:
    """Fetch an adapter from the hub: its configuration and its weights, no other file. Raises ModelNotFound, or
    EngineUnavailable where the hub does not answer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS])
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFound(f"{name}: no such folder, and the hub has none of that name: {error}") from None
    except (HfHubHTTPError, OSError) as error:  # the library's "not in the cache and offline" is a kind of OSError
        raise EngineUnavailable(f"{name}: the hub did not give it: {error}", code="hub_unavailable") from None


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, which takes no other work's place and which the end of the process does not
    wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (work(), None)
        except BaseException as error:
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, *outcome)

    threading.Thread(target=run, name="adapter", daemon=True).start()
    return await done
