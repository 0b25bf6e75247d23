"""The kernel that all services use: RPC, errors, settings, storage, telemetry and process runtime."""
