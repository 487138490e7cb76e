"""The encrypted library on disk and its vector index in memory."""
