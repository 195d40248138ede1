"""The arithmetic: `ops` is the facade; the truth in plain torch is `reference` (LoRA, embeddings),
`attention.reference`, or beside the tests; other folders hold faster versions.

Nothing here knows sequences, requests or models: tensors in, tensors out.
"""
