"""The DRW AI platform: one package, sixteen services."""

import os

# Before gRPC is loaded. Its fork handlers crash about one child in twenty of a process with active calls, between fork
# and exec, which is all that the platform does in a child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
