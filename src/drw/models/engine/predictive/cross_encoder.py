"""A cross-encoder: reads a query together with each document, and scores the relevance of the document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from drw.models.engine.predictive.onnx_session import OnnxSession, RequestRejected, UnsupportedModel
from drw.tensors.datatypes import BYTES, NUMPY, Tensor, TensorSpec, elements

QUERY, DOCUMENTS, SCORES = "query", "documents", "scores"
MAX_TOKENS = 512
BATCH = 16
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class CrossEncoder:
    """A cross-encoder with the inputs `query` (BYTES, [1]) and `documents` (BYTES, [-1]) and the output `scores`.

    A model with one logit has the sigmoid as its score; with two, the probability of the second class.

    Raises:
        UnsupportedModel: the inputs or the output are not those of a cross-encoder, or there is no tokenizer.
    """

    inputs = (TensorSpec(QUERY, BYTES, (1,)), TensorSpec(DOCUMENTS, BYTES, (-1,), ("documents",)))
    outputs = (TensorSpec(SCORES, "FP32", (-1,), ("documents",)),)

    def __init__(self, session: OnnxSession, folder: Path) -> None:
        self._session = session
        self._datatypes = {spec.name: spec.datatype for spec in session.inputs}
        if unknown := sorted(self._datatypes.keys() - set(TOKEN_INPUTS)):
            raise UnsupportedModel(f"a reranker has the inputs {', '.join(TOKEN_INPUTS)}; this one has {unknown[0]!r}")
        if not folder.is_dir() or not (file := folder / "tokenizer.json").is_file():
            raise UnsupportedModel("a reranker needs the file tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - the library raises Exception itself
            raise UnsupportedModel(f"tokenizer.json cannot be read: {error}") from None
        self._tokenizer.enable_truncation(_max_tokens(folder), strategy="longest_first")
        self._tokenizer.enable_padding()

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Return the scores of the documents, from 0 to 1.

        Raises:
            RequestRejected: a text is not UTF-8, or there is not exactly one query.
        """
        tensors = {tensor.name: tensor for tensor in inputs}
        try:
            queries, documents = (
                [value.decode() for value in elements(tensors[name].data)] for name in (QUERY, DOCUMENTS)
            )
        except UnicodeDecodeError:
            raise RequestRejected("query and documents must be UTF-8") from None
        except KeyError as error:
            raise RequestRejected(f"the input {error.args[0]!r} is missing") from None
        if len(queries) != 1:
            raise RequestRejected(f"there are {len(queries)} queries; a request has one")
        # Texts of similar length together: the shorter ones of a batch are padded.
        order = sorted(range(len(documents)), key=lambda index: len(documents[index]))
        scores = np.zeros(len(documents), np.float32)
        for start in range(0, len(order), BATCH):
            indexes = order[start : start + BATCH]
            scores[indexes] = self._scores(queries[0], [documents[index] for index in indexes])
        return [Tensor(SCORES, "FP32", (len(documents),), scores.tobytes())]

    def _scores(self, query: str, documents: Sequence[str]) -> Any:
        encodings = self._tokenizer.encode_batch([(query, document) for document in documents])
        values = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        arrays = {name: np.array(values[name], NUMPY[datatype]) for name, datatype in self._datatypes.items()}
        feed = [Tensor(name, self._datatypes[name], array.shape, array.tobytes()) for name, array in arrays.items()]
        output = self._session.run(feed, [self._session.outputs[0].name])[0]
        logits = np.frombuffer(output.data, NUMPY[output.datatype]).astype(np.float64).reshape(len(documents), -1)
        if logits.shape[1] not in (1, 2):
            raise RequestRejected(f"the model has {logits.shape[1]} logits for each document; a reranker has 1 or 2")
        margins = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return 1.0 / (1.0 + np.exp(-np.clip(margins, -50, 50)))


def _max_tokens(folder: Path) -> int:
    """Return the maximum tokens of a pair, from `config.json` if it names fewer than the default."""
    try:
        configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        limit = configuration.get("max_position_embeddings", MAX_TOKENS)
    except (OSError, ValueError, AttributeError):
        return MAX_TOKENS
    return min(MAX_TOKENS, limit) if isinstance(limit, int) and limit > 8 else MAX_TOKENS
