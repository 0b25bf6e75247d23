"""The endpoints of OpenAI's and Anthropic's APIs that the platform implements, and those in the format of vLLM."""

from __future__ import annotations

from dataclasses import dataclass

OPENAI, ANTHROPIC, VLLM = "OpenAI", "Anthropic", "vLLM"
REFERENCES = {
    OPENAI: "https://platform.openai.com/docs/api-reference",
    ANTHROPIC: "https://platform.claude.com/docs/en/api",
    VLLM: "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
}
"""The reference of each API; that of vLLM is one page."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint; `page` is its path in the reference of its API."""

    verb: str
    path: str
    scope: str
    summary: str
    page: str
    api: str = OPENAI

    @property
    def url(self) -> str:
        """The page in the reference."""
        return REFERENCES[VLLM] if self.api == VLLM else f"{REFERENCES[self.api]}/{self.page}"


ENDPOINTS = (
    Endpoint("GET", "/v1/models", "models:read", "List models.", "models/list"),
    Endpoint("GET", "/v1/models/{model}", "models:read", "Show a model.", "models/retrieve"),
    Endpoint("POST", "/v1/chat/completions", "models:invoke", "Chat with a model, streamed or not.", "chat/create"),
    Endpoint("POST", "/v1/completions", "models:invoke", "Continue a text, streamed or not.", "completions/create"),
    Endpoint("POST", "/v1/embeddings", "models:invoke", "Turn texts into vectors.", "embeddings/create"),
    Endpoint("POST", "/v1/moderations", "models:invoke", "Classify texts by categories.", "moderations/create"),
    Endpoint("POST", "/v1/rerank", "models:invoke", "Order documents by relevance for a query.", "rerank/create", VLLM),
    Endpoint(
        "POST", "/v1/tokenize", "models:invoke", "Return the tokens of a prompt or chat.", "tokenize/create", VLLM
    ),
    Endpoint("POST", "/v1/detokenize", "models:invoke", "Return the text of tokens.", "detokenize/create", VLLM),
    Endpoint(
        "POST", "/v1/responses", "models:invoke", "Get a response of a model, streamed or not.", "responses/create"
    ),
    Endpoint("GET", "/v1/responses/{response_id}", "models:invoke", "Show a stored response.", "responses/get"),
    Endpoint("DELETE", "/v1/responses/{response_id}", "models:invoke", "Delete a stored response.", "responses/delete"),
    Endpoint(
        "GET",
        "/v1/responses/{response_id}/input_items",
        "models:invoke",
        "List the input of a stored response.",
        "responses/input-items",
    ),
    Endpoint(
        "POST",
        "/v1/responses/{response_id}/cancel",
        "models:invoke",
        "Refuse: only background responses can be cancelled.",
        "responses/cancel",
    ),
    Endpoint(
        "POST", "/v1/messages", "models:invoke", "Chat with a model, streamed or not.", "messages/create", ANTHROPIC
    ),
    Endpoint(
        "POST",
        "/v1/messages/count_tokens",
        "models:invoke",
        "Count the tokens of a prompt.",
        "messages/count_tokens",
        ANTHROPIC,
    ),
    Endpoint("POST", "/v1/batches", "models:invoke", "Run the requests of a file in the background.", "batch/create"),
    Endpoint("GET", "/v1/batches", "models:invoke", "List batches.", "batch/list"),
    Endpoint("GET", "/v1/batches/{batch_id}", "models:invoke", "Show a batch.", "batch/retrieve"),
    Endpoint("POST", "/v1/batches/{batch_id}/cancel", "models:invoke", "Cancel a batch.", "batch/cancel"),
    Endpoint("POST", "/v1/files", "documents:write", "Upload a file.", "files/create"),
    Endpoint("GET", "/v1/files", "documents:read", "List files.", "files/list"),
    Endpoint("GET", "/v1/files/{file_id}", "documents:read", "Show a file.", "files/retrieve"),
    Endpoint("DELETE", "/v1/files/{file_id}", "documents:write", "Delete a file.", "files/delete"),
    Endpoint("GET", "/v1/files/{file_id}/content", "documents:read", "Download a file.", "files/retrieve-contents"),
    Endpoint("POST", "/v1/vector_stores", "documents:write", "Make a vector store.", "vector-stores/create"),
    Endpoint("GET", "/v1/vector_stores", "documents:read", "List vector stores.", "vector-stores/list"),
    Endpoint(
        "GET", "/v1/vector_stores/{vector_store_id}", "documents:read", "Show a vector store.", "vector-stores/retrieve"
    ),
    Endpoint(
        "POST",
        "/v1/vector_stores/{vector_store_id}",
        "documents:write",
        "Change a vector store.",
        "vector-stores/modify",
    ),
    Endpoint(
        "DELETE",
        "/v1/vector_stores/{vector_store_id}",
        "documents:write",
        "Delete a vector store with all that is in it.",
        "vector-stores/delete",
    ),
    Endpoint(
        "POST",
        "/v1/vector_stores/{vector_store_id}/search",
        "documents:read",
        "Find the passages nearest to a question.",
        "vector-stores/search",
    ),
    Endpoint(
        "POST",
        "/v1/vector_stores/{vector_store_id}/files",
        "documents:write",
        "Put a file into a vector store.",
        "vector-stores-files/createFile",
    ),
    Endpoint(
        "GET",
        "/v1/vector_stores/{vector_store_id}/files",
        "documents:read",
        "List the files of a vector store.",
        "vector-stores-files/listFiles",
    ),
    Endpoint(
        "GET",
        "/v1/vector_stores/{vector_store_id}/files/{file_id}",
        "documents:read",
        "Show a file of a vector store, and how its indexing goes.",
        "vector-stores-files/getFile",
    ),
    Endpoint(
        "DELETE",
        "/v1/vector_stores/{vector_store_id}/files/{file_id}",
        "documents:write",
        "Take a file out of a vector store.",
        "vector-stores-files/deleteFile",
    ),
    Endpoint(
        "POST",
        "/v1/vector_stores/{vector_store_id}/files/{file_id}",
        "documents:write",
        "Change the attributes of a file.",
        "vector-stores-files/updateAttributes",
    ),
    Endpoint(
        "GET",
        "/v1/vector_stores/{vector_store_id}/files/{file_id}/content",
        "documents:read",
        "Show the text of a file of a vector store.",
        "vector-stores-files/getContent",
    ),
    Endpoint(
        "POST",
        "/v1/vector_stores/{vector_store_id}/file_batches",
        "documents:write",
        "Put files into a vector store.",
        "vector-stores-file-batches/createBatch",
    ),
    Endpoint(
        "GET",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}",
        "documents:read",
        "Show how the indexing of several files goes.",
        "vector-stores-file-batches/getBatch",
    ),
    Endpoint(
        "GET",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files",
        "documents:read",
        "List the files of a batch.",
        "vector-stores-file-batches/listBatchFiles",
    ),
    Endpoint(
        "POST",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel",
        "documents:write",
        "Stop the indexing of several files.",
        "vector-stores-file-batches/cancelBatch",
    ),
)
