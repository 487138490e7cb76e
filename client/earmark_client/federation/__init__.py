"""Taking part in a federation: enrolment, rounds and releases. The library works without any of it."""
