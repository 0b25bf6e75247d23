"""The local platform: its processes and their supervision."""
