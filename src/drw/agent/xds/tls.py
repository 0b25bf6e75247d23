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
    """Return the certificate resources of Envoy's secret discovery service (SDS), by file name."""
    resources = {
        CERTIFICATE: typed(
            SECRET,
            name=CERTIFICATE,
            tls_certificate=_certificate(tls) | {"watched_directory": {"path": str(tls.certificate.parent)}},
        )
    }
    if tls.client_ca:
        context = _ca(tls) | {"watched_directory": {"path": str(tls.client_ca.parent)}}
        resources[CLIENT_CA] = typed(SECRET, name=CLIENT_CA, validation_context=context)
    return resources


def sds_socket(tls: Tls, folder: str) -> Json:
    """Return the TLS transport socket whose certificates are SDS resources in this folder."""

    def source(name: str) -> Json:
        return {"name": name, "sds_config": file_source(f"{folder}/{name}/{name}.json")}

    common: Json = {"tls_certificate_sds_secret_configs": [source(CERTIFICATE)]}
    if tls.client_ca:
        common["validation_context_sds_secret_config"] = source(CLIENT_CA)
    return _tls_socket(common)


def static_socket(tls: Tls) -> Json:
    """Return the TLS transport socket with the paths of the certificates, for validation."""
    common: Json = {"tls_certificates": [_certificate(tls)]}
    if tls.client_ca:
        common["validation_context"] = _ca(tls)
    return _tls_socket(common)


def _tls_socket(common: Json) -> Json:
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


def _ca(tls: Tls) -> Json:
    return {"trusted_ca": {"filename": str(tls.client_ca)}}
