"""Earmark's coordinator. It never imports code that handles audio, labels, embeddings or an index."""
