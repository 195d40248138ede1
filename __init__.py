"""quire: a local LLM inference server.

The repository root is the package: `quire.server` speaks HTTP, `quire.engine` turns token ids into token ids,
`quire.kernels` does the arithmetic, `quire.clients` talks to a server over HTTP and imports nothing of the others.
"""

__version__ = "0.1.0"
