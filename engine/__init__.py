"""The engine process: schedule, execute, commit, send. Token ids in, token ids out; it knows no text but in grammar/.

Logic (messages config errors tokens gguf sequence blocks lanes state plan scheduler ahead) has no torch, no clock, no
socket; the rest has, but that grammar/ has no torch. The server knows client, config, errors, gguf, messages and
tokens, and what asks grammar/ for one (spec, controls, strict).
"""
