"""What a device and a server must agree on: errors, settings, files and, later, the round protocol."""
