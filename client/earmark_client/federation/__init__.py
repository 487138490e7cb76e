"""Taking part in a federation: enrolment, rounds and releases. The library works without any of it."""

LAB_BANNER = (
    "LAB HOME: joined with --lab. Rounds of five devices are accepted here, so what you correct is hidden among fewer people. "
    "For demonstrations only; it can't be undone."
)
"""Shown by `earmark status` and every command of the federation, in a home that ever joined as a lab."""
