"""The kill switch: requests, approvals, storage and the blocks that data planes enforce."""
