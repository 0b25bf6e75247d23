"""Settings of authentication: issuer, secret, lifetimes, and hosts for key sets."""

from __future__ import annotations

from pydantic import ConfigDict, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from drw.egress.addresses import parse_target
from drw.gateway.authentication.keys.secret import weakness
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of the service; errors never contain their values."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    issuer: str = Field("drw", min_length=1, max_length=200)
    """Claim `iss` of API keys: the same on every data plane."""
    audience: str = Field("drw-gateway", min_length=1, max_length=200)
    """Claim `aud` of API keys."""
    secret: SecretStr = SecretStr("")
    """Secret that encrypts the signing keys; 32 to 1,024 characters. Store it apart from the database."""
    former_secret: SecretStr | None = None
    """The previous secret. Signing keys encrypted with it are encrypted again at the next start."""
    new_signing_key_seconds: float = Field(30, ge=0, le=3600)
    """Time between the publication of a new signing key to the data planes and its first signature."""
    borrowed_key_seconds: int = Field(86400, ge=60, le=366 * 86400)
    """Maximum lifetime of keys that callers with a token or a certificate create."""
    jwks_hosts: tuple[str, ...] = Field((), max_length=50)
    """Hosts ("host:port") for key sets that are inside this network or do not use https."""

    @field_validator("secret")
    @classmethod
    def _reject_weak(cls, value: SecretStr) -> SecretStr:
        if problem := weakness(value.get_secret_value()):
            raise PydanticCustomError("weak_secret", "{why}", {"why": problem})
        return value

    @field_validator("jwks_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for host in value:
                parse_target(host)
        except InvalidRequest as error:
            raise PydanticCustomError("bad_host", "{why}", {"why": error.message}) from error
        return value

    def secrets(self) -> list[str]:
        """Return the secrets that can decrypt signing keys, the newest first."""
        return [secret.get_secret_value() for secret in (self.secret, self.former_secret) if secret is not None]
