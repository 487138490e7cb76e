"""The parts of scripts/prune_encoder.py: sounds, mixtures, the network, pruning and rounding, the ONNX graph."""
