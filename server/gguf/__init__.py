"""A GGUF file as the model folder it was made from: config, tokenizer and template are written from its keys.

The folder lies in the user's cache with a link to the file in it, so that the rest of the house knows folders only. No
torch here: tensors are for engine/weights/gguf.py.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ... import __version__
from ...engine import gguf
from ...engine.errors import ModelError
from .config import architecture_of, config_of, generation_of
from .tokenizer import words_of

LINK = "model.gguf"
EDITION = 1  # of what is written into a folder: one more, and none written before is used any more


def folder_of(path: Path, environ: Mapping[str, str]) -> Path:
    """The model folder of a file, written if it is not there yet. Raises ModelError naming the key or tensor for which
    the file cannot be served."""
    path = path.resolve()
    file = gguf.File(path)
    # The header does not tell two trainings of one model apart, so the path is a part of the key.
    key = blake2b(f"{__version__} {EDITION} {file.digest} {path}".encode(), digest_size=16).hexdigest()
    folder = cache(environ) / key
    if folder.is_dir():
        return folder
    return _put(_written(file), path, folder)


def cache(environ: Mapping[str, str]) -> Path:
    """Where the folders lie."""
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "quire" / "gguf"


def _written(file: gguf.File) -> dict[str, dict[str, Any]]:
    """File name -> what it holds."""
    kind = architecture_of(file)
    words = words_of(file)
    return {
        "config.json": config_of(file, kind, words),
        "generation_config.json": generation_of(file, words),
        "tokenizer.json": words.description,
        "tokenizer_config.json": words.settings,
    }


def _put(files: dict[str, dict[str, Any]], path: Path, folder: Path) -> Path:
    """Write all of it beside `folder`, then give it that name at once; a temporary folder where that cannot be."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    except (OSError, RuntimeError):  # RuntimeError: no home
        folder = fresh = _temporary()
    try:
        for name, content in files.items():
            (fresh / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        (fresh / LINK).symlink_to(path)
        if fresh != folder:
            os.rename(fresh, folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.is_dir():  # another server was quicker
            return folder
        raise ModelError(f"{folder}: cannot be written ({error.strerror}); expected room for a tokenizer") from None
    return folder


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="quire-gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
