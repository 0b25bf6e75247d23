"""OpenAI's Responses API: requests, stored responses, file search, events."""
