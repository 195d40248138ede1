"""The load generator: what a server gives in output tokens/s, time to first token and inter-token latency."""
