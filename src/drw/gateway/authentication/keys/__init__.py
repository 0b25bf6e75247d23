"""API keys: issuing, policy, revocation and signing keys."""
