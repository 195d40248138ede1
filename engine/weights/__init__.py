"""Weight formats: reading tensors by name from a model folder, straight into the parameters of a model."""
