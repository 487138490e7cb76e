"""Earmark on the device: audio in, labels and vectors out, an encrypted library to search."""
