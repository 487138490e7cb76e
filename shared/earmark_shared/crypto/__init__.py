"""The primitives the protocol stands on: hashes, keys, signatures, sealed bytes and keystreams. No protocol rule lives here."""
