"""The secure aggregation protocol SA1: the server opens the sum of a large enough cohort and nothing else.

`device.py` and `server.py` are the two halves, state machines without I/O, clocks or entropy of their own; `checks.py` holds
every refusal, one function each; the other modules are the arithmetic. Design: docs/concepts; Bonawitz et al. 2017.
"""
