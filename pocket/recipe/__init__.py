"""How pocket is made: `python -m quire.pocket.recipe --preset cpu`.

Data, tokenizer, network, training, export and evaluation live here; nothing that serves imports any of it.
"""
