"""Errors of model serving.

* Unavailable
  + EngineUnavailable      (the engine does not answer; it may be restarting)
  + EngineBusy             (the admission queue is full)
  + EngineCoolingDown      (the circuit is open after repeated failures)
  + ResponseTruncated      (the engine ended before the answer was complete)
  + ModelLoadFailed        (the model cannot be loaded)
  + OutOfModelMemory       (all loaded models are in use, and the memory does not suffice for another)
* DeadlineExceeded
  + EngineStalled          (no token within the time limit)
  + RequestTimedOut        (the deadline of the request passed)
* RateLimited
  + EngineLimited          (the upstream rejects requests over its rate limit)
  + UpstreamQuotaExhausted (the platform's account at the upstream has no quota left)
* NotFound
  + UpstreamModelNotFound  (the upstream does not have the model)
* InternalError
  + EngineMisconfigured    (wrong address, key or settings of the upstream)
* InvalidRequest
  + ContextLengthExceeded
  + ContentFiltered        (a content filter rejected the request or answer)
  + NotSupported           (a part of OpenAI's API that is not supported)
"""

from __future__ import annotations

from drw.kernel.errors import NEVER, DeadlineExceeded, InternalError, InvalidRequest, NotFound, RateLimited, Unavailable

CONTEXT_LENGTH, CONTENT_FILTER, QUOTA = "context_length_exceeded", "content_filter", "insufficient_quota"
"""OpenAI's error codes."""


class EngineUnavailable(Unavailable):
    """The engine does not answer."""


class EngineBusy(Unavailable):
    """The admission queue of the engine is full."""


class EngineCoolingDown(Unavailable):
    """The engine failed repeatedly; its circuit is open."""


class ResponseTruncated(Unavailable):
    """The engine ended before the answer was complete."""


class ModelLoadFailed(Unavailable):
    """The model cannot be loaded; the message says why."""


class OutOfModelMemory(Unavailable):
    """The memory for models does not suffice for another one, and all loaded models are in use."""


class EngineStalled(DeadlineExceeded):
    """The engine sent no token within the time limit."""


class RequestTimedOut(DeadlineExceeded):
    """The deadline of the request passed."""


class EngineLimited(RateLimited):
    """The rate limit of the upstream is exceeded. Limits of the caller are `LimitReached`."""


class UpstreamQuotaExhausted(RateLimited):
    """The quota of the platform at the upstream is exhausted; a retry does not help."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message, code=QUOTA, retry_after=NEVER, **metadata)


class UpstreamModelNotFound(NotFound):
    """The upstream does not have the configured model."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="model_not_found", param="model")


class EngineMisconfigured(InternalError):
    """The configuration of the engine is wrong."""


class ContextLengthExceeded(InvalidRequest):
    """The prompt exceeds the context length of the model."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, code=CONTEXT_LENGTH, param=param)

    @classmethod
    def counted(cls, tokens: int, max_tokens: int, param: str) -> ContextLengthExceeded:
        """Return the error for a prompt of so many tokens."""
        return cls(f"the prompt has {tokens} tokens; this model takes at most {max_tokens}: shorten it", param)


class ContentFiltered(InvalidRequest):
    """A content filter rejected the request; no fallback is tried."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=CONTENT_FILTER, param="messages")


class NotSupported(InvalidRequest):
    """The parameter is part of OpenAI's API and not supported."""

    def __init__(self, param: str, instead: str) -> None:
        super().__init__(f"{param!r} is not supported here: {instead}", code="unsupported_parameter", param=param)
