"""The body of `POST /v1/rerank`, in the format that Jina, Cohere and vLLM share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, Tag

from drw.models.serving.openai.messages import TEXT_OR_OBJECT, StrictObject
from drw.models.serving.openai.requests import ModelId

MAX_DOCUMENTS = 1000

Text = Annotated[str, StringConstraints(min_length=1)]


class TextDocument(StrictObject):
    """A document as an object."""

    text: Text


Document = Annotated[Annotated[Text, Tag("<text>")] | Annotated[TextDocument, Tag("<object>")], TEXT_OR_OBJECT]


class Rerank(StrictObject):
    """`POST /v1/rerank`."""

    model: ModelId
    query: Text
    documents: Annotated[list[Document], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]
    top_n: int | None = Field(None, ge=1, le=2**31 - 1)
    return_documents: bool | None = None
    """Whether results contain their document. Default: true."""

    def texts(self) -> list[str]:
        """Return the texts of the documents."""
        return [one if isinstance(one, str) else one.text for one in self.documents]
