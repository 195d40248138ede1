"""The arithmetic: `ops` is the facade, `reference` the truth in plain torch; other folders hold faster versions.

Nothing here knows sequences, requests or models: tensors in, tensors out.
"""
