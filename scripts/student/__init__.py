"""The parts of scripts/train_student.py: sounds, mixtures, the network, pruning, training, the ONNX graph."""
