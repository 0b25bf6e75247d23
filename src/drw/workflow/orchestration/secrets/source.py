"""Secrets that templates name: their values come from files and variables of the deployer, by tenant.

A value is read for each attempt at a step. It is only in memory, and only in the call of the step.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Sequence

from drw.egress.http_hosts import Origin, origin_of_entry
from drw.kernel.errors import Forbidden, Unavailable
from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import WorkflowSecret
from drw.workflow.orchestration.secrets.redaction import Secrets

MIN_CHARACTERS = 8
"""A shorter value could not be redacted without destroying other text."""
MAX_BYTES = 8 * 1024


class SecretNotPermitted(Forbidden):
    """The desk of the run has no such secret, or it cannot be sent to this host."""


class SecretSource:
    """The declared secrets. Those of a desk win over those of its org."""

    def __init__(self, declared: Sequence[WorkflowSecret]) -> None:
        self._declared = {(secret.org, secret.desk, secret.name): secret for secret in declared}
        self._origins = {
            key: {origin_of_entry(host) for host in secret.hosts} for key, secret in self._declared.items()
        }

    async def read(self, caller: Principal, names: Iterable[str]) -> Secrets:
        """Return the values of the secrets of a desk.

        Raises:
            SecretNotPermitted: the desk has no such secret.
            Unavailable: a value cannot be read now.
        """
        return Secrets({name: await asyncio.to_thread(self._value, caller, name) for name in names})

    def check_host(self, caller: Principal, names: Iterable[str], origin: Origin) -> None:
        """Check that secrets can be sent to a host.

        Raises:
            SecretNotPermitted: one cannot.
        """
        for name in names:
            if origin not in self._origins[self._key(caller, name)]:
                raise SecretNotPermitted(f"the secret {name!r} cannot be sent to {origin[1]!r}: it is not in its hosts")

    def _key(self, caller: Principal, name: str) -> tuple[str, str, str]:
        for desk in (caller.desk, ""):
            if (key := (caller.org, desk, name)) in self._declared:
                return key
        raise SecretNotPermitted(f"the desk {caller.desk!r} has no secret {name!r}")

    def _value(self, caller: Principal, name: str) -> str:
        secret = self._declared[self._key(caller, name)]
        value = os.environ.get(secret.variable, "") if secret.file is None else _read(name, str(secret.file))
        value = value.rstrip("\r\n")
        if len(value) < MIN_CHARACTERS:
            raise Unavailable(f"the secret {name!r} has no value of at least {MIN_CHARACTERS} characters")
        return value


def _read(name: str, file: str) -> str:
    try:
        # Without O_NONBLOCK, opening a FIFO blocks until there is a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
            if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                raise Unavailable(f"the file of the secret {name!r} is not a regular file")
            content = handle.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Unavailable(f"the file of the secret {name!r} has more than {MAX_BYTES} bytes")
        return content.decode()
    except OSError as error:
        raise Unavailable(f"the file of the secret {name!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unavailable(f"the file of the secret {name!r} is not UTF-8") from None
