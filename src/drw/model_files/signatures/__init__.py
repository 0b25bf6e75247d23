"""Signatures of models: OpenSSF Model Signing v1.0, verified offline."""
