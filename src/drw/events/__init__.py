"""The event bus: CloudEvents with a transactional outbox and an inbox; see docs/concepts/events.md."""
