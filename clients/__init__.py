"""Programs that talk to a quire server over HTTP. Nothing here imports the server, the engine or the kernels."""
