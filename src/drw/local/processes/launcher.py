"""Runs a command that dies with its parent: `python launcher.py SIGNAL PARENT COMMAND...`.

A separate process, because code between fork and exec is unsafe in a supervisor with threads.
It imports nothing from this package, to start fast.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    number, parent = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # the parent died before the line above
        sys.exit(1)
    os.execv(sys.argv[3], sys.argv[3:])
