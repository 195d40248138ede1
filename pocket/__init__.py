"""pocket: the small model that quire ships, so that the first command works with no download.

`FOLDER` is the model, `DRAFT` its draft model, `ADAPTERS` its LoRA adapters by name; `verify` checks their files.
`recipe/` is how it was trained. Nothing heavy is imported here; the recipe alone imports torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..engine.errors import ModelError

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "model"
DRAFT = HERE / "draft"
ADAPTERS = {name: HERE / "adapters" / name for name in ("capitals", "pirate", "json")}
MANIFEST = "manifest.json"


def verify(folder: Path) -> None:
    """Every file that the folder's manifest lists is there and whole. Raises ModelError naming the first that is not,
    with the sha256 that was expected and the one that was found."""
    manifest = folder / MANIFEST
    try:
        expected: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    except OSError as error:
        raise ModelError(
            f"{manifest}: cannot be read ({error.strerror}); expected the list of the model's files"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{manifest}: is damaged; expected an object with sha256 of each of the model's files"
        ) from None
    for name, wanted in expected.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path}: not found; expected a file with sha256 {wanted}")
        if (found := sha256(path)) != wanted:
            raise ModelError(f"{path}: is damaged: sha256 is {found}; expected {wanted}")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
