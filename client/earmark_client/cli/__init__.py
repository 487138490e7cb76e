"""The command line: a thin face on `Library`."""
