"""TLS termination: server certificate, and the CA of client certificates.

Envoy reloads the files when they are replaced. Use a folder that is swapped atomically, so that a certificate and its
key change together.
"""

from __future__ import annotations

from drw.agent.xds.builders import Json, extension, file_source, typed
from drw.kernel.runtime.settings import Tls

CONTEXT = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
CERTIFICATE, CLIENT_CA = "certificate", "client_ca"


def secrets(tls: Tls) -> dict[str, Json]:
    """Return the secrets delivered separately, by file name."""
    resources = {CERTIFICATE: typed(SECRET, name=CERTIFICATE, tls_certificate=_certificate(tls) | _watched(tls))}
    if tls.client_ca:
        context = _authority(tls) | {"watched_directory": {"path": str(tls.client_ca.parent)}}
        resources[CLIENT_CA] = typed(SECRET, name=CLIENT_CA, validation_context=context)
    return resources


def delivered(tls: Tls, folder: str) -> Json:
    """Return the TLS transport socket with certificates from these files."""

    def source(name: str) -> Json:
        return {"name": name, "sds_config": file_source(f"{folder}/{name}/{name}.json")}

    common: Json = {"tls_certificate_sds_secret_configs": [source(CERTIFICATE)]}
    if tls.client_ca:
        common["validation_context_sds_secret_config"] = source(CLIENT_CA)
    return _socket(common)


def inline(tls: Tls) -> Json:
    """Return the same as one static configuration."""
    common: Json = {"tls_certificates": [_certificate(tls)]}
    if tls.client_ca:
        common["validation_context"] = _authority(tls)
    return _socket(common)


def _socket(common: Json) -> Json:
    context = typed(
        CONTEXT,
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2", "http/1.1"],
            **common,
        },
        # Client certificates are optional, but an invalid one fails the handshake.
        require_client_certificate=False,
        # A resumed session would skip the certificate check.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return extension("envoy.transport_sockets.tls", context)


def _certificate(tls: Tls) -> Json:
    return {
        "certificate_chain": {"filename": str(tls.certificate)},
        "private_key": {"filename": str(tls.private_key)},
    }


def _watched(tls: Tls) -> Json:
    return {"watched_directory": {"path": str(tls.certificate.parent)}}


def _authority(tls: Tls) -> Json:
    return {"trusted_ca": {"filename": str(tls.client_ca)}}
