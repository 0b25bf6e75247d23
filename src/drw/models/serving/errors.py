"""What can go wrong between a caller and an engine.

* Unavailable
  + EngineUnavailable      (it does not answer; perhaps it is starting again)
  + EngineBusy             (too many wait for it)
  + EngineCoolingDown      (it failed again and again, and is left alone for a while)
  + ResponseTruncated      (it ended in the middle of an answer)
* DeadlineExceeded
  + EngineStalled          (no token within the time set for it)
  + RequestTimedOut        (the request's own time ran out)
* RateLimited
  + EngineLimited          (its upstream wants us to come back later)
  + UpstreamQuotaExhausted (the money that its upstream has of us is used up)
* NotFound
  + UpstreamModelNotFound  (its upstream does not have the model)
* InternalError
  + EngineMisconfigured    (what the operator set for it is wrong)
* InvalidRequest
  + ContextLengthExceeded
  + ContentFiltered        (its operator's rules forbid an answer)
  + NotSupported           (part of OpenAI's API that this model or release lacks)
"""

from __future__ import annotations

from drw.kernel.errors import NEVER, DeadlineExceeded, InternalError, InvalidRequest, NotFound, RateLimited, Unavailable

CONTEXT_LENGTH, CONTENT_FILTER, QUOTA = "context_length_exceeded", "content_filter", "insufficient_quota"
"""OpenAI's codes."""


class EngineUnavailable(Unavailable):
    """The engine does not answer."""


class EngineBusy(Unavailable):
    """As many requests wait for the engine as may."""


class EngineCoolingDown(Unavailable):
    """The engine failed again and again, and is left alone for a while."""


class ResponseTruncated(Unavailable):
    """The engine ended before the answer did."""


class EngineStalled(DeadlineExceeded):
    """The engine gave no token within the time set for it."""


class RequestTimedOut(DeadlineExceeded):
    """The time for the whole answer ran out, whoever was giving it."""


class EngineLimited(RateLimited):
    """The engine's upstream takes no more of us for now; a limit of our own caller's is another class."""


class UpstreamQuotaExhausted(RateLimited):
    """What the operator pays the upstream is used up: waiting does not help."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message, code=QUOTA, retry_after=NEVER, **metadata)


class UpstreamModelNotFound(NotFound):
    """The upstream does not have the model that the operator set."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="model_not_found", param="model")


class EngineMisconfigured(InternalError):
    """The engine cannot be reached as the operator set it up."""


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the model takes."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message, code=CONTEXT_LENGTH, param=param)

    @classmethod
    def counted(cls, tokens: int, max_tokens: int, param: str) -> ContextLengthExceeded:
        """Return the error for a prompt whose tokens are known."""
        return cls(f"the prompt has {tokens} tokens; this model takes at most {max_tokens}: shorten it", param)


class ContentFiltered(InvalidRequest):
    """Rules about content forbid an answer; no other model may be asked instead."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=CONTENT_FILTER, param="messages")


class NotSupported(InvalidRequest):
    """OpenAI's API has this, and this model or this release has not."""

    def __init__(self, param: str, instead: str) -> None:
        super().__init__(f"{param!r} is not supported here: {instead}", code="unsupported_parameter", param=param)
