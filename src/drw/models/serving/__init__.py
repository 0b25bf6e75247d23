"""Model serving: OpenAI's endpoints, failover, metering and engines."""
