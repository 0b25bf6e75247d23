"""Becomes a command that ends with its parent: `python launcher.py SIGNAL PARENT COMMAND...`.

A process of its own, since code between fork and exec is not safe in a supervisor that has threads.
It imports nothing of ours, so that it starts at once.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(sys.argv[3], sys.argv[3:])
