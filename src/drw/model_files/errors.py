"""Errors of model file checks.

* InvalidRequest
  x ModelRejected             (malformed, unsafe, unsupported or too large)
    + FilesChanged            (the files changed during the check)
    + ChatTemplateRejected
      . TemplateFailed          (for the given messages)
    + SignatureRejected
"""

from __future__ import annotations

from drw.kernel.errors import InvalidRequest


class ModelRejected(InvalidRequest):
    """The model must not be imported or loaded. `reasons` has one entry for each problem."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons), code="model_rejected")
        self.reasons = reasons


class FilesChanged(ModelRejected):
    """The files of the model changed during the check."""


class ChatTemplateRejected(ModelRejected):
    """The chat template is invalid, unsafe or exceeds a limit of its sandbox."""


class TemplateFailed(ChatTemplateRejected):
    """The chat template does not accept the given messages."""


class SignatureRejected(ModelRejected):
    """The signature is malformed, not from a trusted signer, or does not match the files."""
