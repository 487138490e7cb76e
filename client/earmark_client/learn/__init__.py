"""Learning from corrections on the device, and the ledger of what that cost in privacy."""
