"""Messages as bytes: the only package that knows protobuf."""
