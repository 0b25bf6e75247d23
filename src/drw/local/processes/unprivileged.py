"""Runs a command that refuses to run as root: `python -m drw.local.processes.unprivileged COMMAND...`.

In a user namespace the command sees another user id, while its files stay owned by root, so that nothing
on the machine has to change. Without namespaces it runs as `nobody`.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
CHECK = "--check"
NAMESPACE_UID = 1
"""The user id inside the namespace. It needs a name on every machine (`daemon`), because initdb looks it up."""


def enter_namespace() -> bool:
    """Move this process into a user namespace in which it is not root; return whether that was allowed."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    death_signal = ctypes.c_int()
    libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(death_signal))
    if libc.unshare(CLONE_NEWUSER) != 0:
        return False
    libc.prctl(PR_SET_PDEATHSIG, death_signal)  # entering the namespace cleared it
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NAMESPACE_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NAMESPACE_UID} {gid} 1")
    return True


def namespaces_allowed() -> bool:
    """Return whether `enter_namespace` works; tested in a separate process, because it needs a single thread."""
    return (
        subprocess.run(
            [sys.executable, "-m", "drw.local.processes.unprivileged", CHECK], capture_output=True
        ).returncode
        == 0
    )


def main() -> None:
    """Drop privileges and exec the command."""
    if sys.argv[1] == CHECK:
        sys.exit(0 if enter_namespace() else 1)
    if os.geteuid() == 0 and not enter_namespace():
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
