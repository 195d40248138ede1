"""The API process: HTTP, validation, chat templates, tokenizing, detokenizing, stop strings, streaming.

Of the engine it knows `messages`, `config`, `errors` and `client` only; it never imports torch.
"""
