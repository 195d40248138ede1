"""Adapters: what is read from their folders, and what that changes in the products of a model.

No scheduler, no slots and no HTTP here. A folder becomes a `Raw` in host memory (read.read), and one or several of them
an `Adapter` on the device (read.ready). A kind of adapter is a line in READERS; importing this file imports no torch.
"""

from __future__ import annotations

READERS = {  # peft_type of adapter_config.json -> module of this folder
    "LORA": "lora",
    "IA3": "ia3",
}
