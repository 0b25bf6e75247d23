"""External identities: JWT issuers, JWKS and client certificates."""
