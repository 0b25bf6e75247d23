"""What every service stands on: calls, errors, settings, storage, telemetry, the process."""
