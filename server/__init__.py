"""The API process: HTTP, validation, chat templates, tokenizing, detokenizing, stop strings, streaming.

What it knows of the engine stands in `engine/__init__.py`; it never imports torch.
"""
