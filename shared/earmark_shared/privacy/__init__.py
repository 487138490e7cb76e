"""Differential privacy: bounded contributions, exact integer noise, and what the two together cost."""
