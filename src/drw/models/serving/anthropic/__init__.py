"""Anthropic's Messages API: validation of requests, conversion to chats and back, error format."""
