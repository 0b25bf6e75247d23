"""Configuration files beside safetensors weights, as Hugging Face Transformers writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drw.model_files import strict_json
from drw.model_files.description import Description, count, text, texts
from drw.model_files.errors import ModelRejected

CONFIG = "config.json"
TOKENIZER = "tokenizer_config.json"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
README = "README.md"
PARSED = (CONFIG, TOKENIZER, *TEMPLATE_FILES, README)
"""Files at the top of the folder that `describe` reads."""
FRONT_MATTER = re.compile(r"\A---\r?\n(.{0,65536}?)^---\s*$", re.S | re.M)
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def describe(description: Description, files: Mapping[str, bytes]) -> tuple[Description, tuple[tuple[str, str], ...]]:
    """Return the description with what the configuration adds, and the chat templates by name.

    Raises:
        ModelRejected: a file is not JSON.
    """
    config = _object(files, CONFIG)
    tokenizer = _object(files, TOKENIZER)
    card = _front_matter(files.get(README, b""))
    architectures = texts(config.get("architectures"))
    templates = _templates(files, tokenizer)
    described = replace(
        description,
        architecture=description.architecture
        or (architectures[0] if architectures else text(config.get("model_type"))),
        context_length=description.context_length
        or next(filter(None, (count(config.get(k)) for k in CONTEXT_KEYS)), 0),
        tokenizer=description.tokenizer or text(tokenizer.get("tokenizer_class")),
        chat_template=description.chat_template or dict(templates).get("default", ""),
        licence=description.licence or text(card.get("license")),
        datasets=description.datasets or texts(card.get("datasets")),
        base_models=description.base_models or texts(card.get("base_model")),
    )
    return described, templates


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        value = strict_json.load(files[name])
    except strict_json.NotStrictJson as error:
        raise ModelRejected(f"{name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelRejected(f"{name} is not a JSON object")
    return value


def _templates(files: Mapping[str, bytes], tokenizer: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    if TEMPLATE_FILES[0] in files:
        found.append(("default", files[TEMPLATE_FILES[0]].decode()))
    for value in (_object(files, TEMPLATE_FILES[1]).get("chat_template"), tokenizer.get("chat_template")):
        if isinstance(value, str):
            found.append(("default", value))
        elif isinstance(value, list):
            found += [(text(each.get("name")), str(each.get("template"))) for each in value if isinstance(each, dict)]
    return tuple((name, template) for name, template in found if template)


def _front_matter(readme: bytes) -> dict[str, Any]:
    """Return the metadata of a model card. It is descriptive: a card that cannot be read counts as empty."""
    match = FRONT_MATTER.match(readme.decode(errors="replace"))
    if match is None:
        return {}
    import yaml

    try:
        value = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
