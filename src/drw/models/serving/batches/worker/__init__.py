"""The worker of batches: validates files, runs requests and stores results."""
