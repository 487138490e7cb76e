"""The parts of scripts/build_base_model.py: read the upstream weights, build the graphs, write the folder."""
