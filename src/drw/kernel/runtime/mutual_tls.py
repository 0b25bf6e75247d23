"""Identities of a profile for mutual TLS between processes."""

from __future__ import annotations

from drw.kernel.rpc.identities import Identities
from drw.kernel.runtime.settings import Profile


def identities_of(profile: Profile) -> Identities | None:
    """Return the identities of a profile; None without mutual TLS."""
    if (mtls := profile.mtls) is None:
        return None
    return Identities(mtls.folder, mtls.trust_domain, mtls.namespace)
