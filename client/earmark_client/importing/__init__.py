"""Bring your own model: a local transformers checkpoint becomes a model folder. The only user of torch and transformers besides training."""
