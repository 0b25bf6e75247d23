"""What can go wrong between a caller and an engine.

* Unavailable
  + EngineUnavailable      (it does not answer; perhaps it is starting again)
  + EngineBusy             (too many wait for it)
  + AnswerCut              (it ended in the middle of an answer)
* DeadlineExceeded
  + EngineStalled          (no token within the time set for it)
* InternalError
  + EngineMisconfigured    (what the operator set for it is wrong)
* InvalidRequest
  + ContextLengthExceeded
  + NotSupported           (part of OpenAI's API that this model or release lacks)
"""

from __future__ import annotations

from drw.kernel.errors import DeadlineExceeded, InternalError, InvalidRequest, Unavailable


class EngineUnavailable(Unavailable):
    """The engine does not answer."""


class EngineBusy(Unavailable):
    """As many requests wait for the engine as may."""


class AnswerCut(Unavailable):
    """The engine ended before the answer did."""


class EngineStalled(DeadlineExceeded):
    """The engine gave no token within the time set for it."""


class EngineMisconfigured(InternalError):
    """The engine cannot be reached as the operator set it up."""


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the model takes."""

    def __init__(self, tokens: int, most: int, param: str) -> None:
        super().__init__(
            f"the prompt has {tokens} tokens; this model takes at most {most}: shorten it",
            code="context_length_exceeded",
            param=param,
        )


class NotSupported(InvalidRequest):
    """OpenAI's API has this, and this model or this release has not."""

    def __init__(self, param: str, instead: str) -> None:
        super().__init__(f"{param!r} is not supported here: {instead}", code="unsupported_parameter", param=param)
