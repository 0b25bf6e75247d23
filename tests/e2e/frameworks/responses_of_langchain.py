"""Calls a gateway with langchain-openai over the Responses API, and with its embeddings: `... URL KEY`."""

# mypy: ignore-errors
import base64
import struct

import openai
from checks import EMBEDDING_MODEL, MODEL, QUESTION, base_url, key, raises, run
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from trading import TOOLS, Trade, price

options = {"model": MODEL, "base_url": base_url, "api_key": key, "max_retries": 0}
model = ChatOpenAI(**options, temperature=0, max_tokens=80, use_responses_api=True)
short = ChatOpenAI(**options, temperature=0, max_tokens=20, use_responses_api=True)
embeddings_options = options | {"model": EMBEDDING_MODEL}
embeddings = OpenAIEmbeddings(**embeddings_options, check_embedding_ctx_length=False)


def close(one: list[float], other: list[float]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-4


def check_answer_stream_and_usage():
    answer = short.invoke("Say hello")
    assert (
        answer.text
        and answer.usage_metadata["output_tokens"] > 0
        and answer.response_metadata["id"].startswith("resp_")
    )
    chunks = list(short.stream("Say hello"))
    assert "".join(chunk.text for chunk in chunks) == answer.text and len(chunks) > 3


async def check_async():
    assert (await short.ainvoke("Say hello")).text == "".join(
        [chunk.text async for chunk in short.astream("Say hello")]
    )


def check_stored_conversation():
    first = short.invoke("Say hello")
    assert short.invoke("Again", previous_response_id=first.response_metadata["id"]).text
    chain = ChatOpenAI(**options, max_tokens=10, use_responses_api=True, use_previous_response_id=True)
    assert chain.invoke([HumanMessage("Say hello"), first, HumanMessage("Again")]).text


def check_every_tool_choice():
    for choice in ("any", "price", {"type": "function", "name": "price"}):
        (call,) = model.bind_tools(TOOLS, tool_choice=choice, parallel_tool_calls=False).invoke(QUESTION).tool_calls
        assert call["name"] in ("price", "clock")
    assert not model.bind_tools(TOOLS, tool_choice="none").invoke(QUESTION).tool_calls
    answer = model.bind_tools(TOOLS, tool_choice="auto", strict=True).invoke(QUESTION)
    assert answer.text or answer.tool_calls


def check_streamed_tool_call_and_round_trip():
    total = None
    for chunk in model.bind_tools(TOOLS, tool_choice="price").stream(QUESTION):
        total = chunk if total is None else total + chunk
    (call,) = total.tool_calls
    result = price.invoke(call)
    assert model.bind_tools(TOOLS, tool_choice="none").invoke([HumanMessage(QUESTION), total, result]).text


def check_structured_output_of_every_method():
    for method in ("json_schema", "function_calling"):
        structured = model.with_structured_output(Trade, method=method)
        assert isinstance(structured.invoke("Buy 5 AAPL"), Trade), method
        assert isinstance(list(structured.stream("Buy 5 AAPL"))[-1], Trade), method
    raw = model.with_structured_output(Trade, method="json_mode", include_raw=True).invoke("Buy 5 AAPL, as JSON")
    assert raw["raw"].text.lstrip().startswith("{"), raw  # the schema is not part of the request


def check_structured_output_with_tools():
    structured = model.with_structured_output(Trade, tools=TOOLS, strict=True, include_raw=True)
    answer = structured.invoke("Buy 5 AAPL")
    assert answer["parsing_error"] is None and (isinstance(answer["parsed"], Trade) or answer["raw"].tool_calls), answer


def check_reasoning_is_a_hint():
    assert (
        ChatOpenAI(**options, max_tokens=10, use_responses_api=True, reasoning={"effort": "low"}).invoke("Hello").text
    )


def check_errors():
    raises(openai.NotFoundError, lambda: short.invoke("x", model="unknown"))
    error = raises(openai.BadRequestError, lambda: short.bind_tools([{"type": "web_search"}]).invoke("x"))
    assert error.param == "tools[0].type", error
    error = raises(openai.BadRequestError, lambda: short.invoke("x", previous_response_id="resp_unknown"))
    assert error.code == "previous_response_not_found", error


def check_embeddings():
    texts = ["The fund buys bonds.", "A trader sells shares."]
    vectors = embeddings.embed_documents(texts)
    assert [len(vector) for vector in vectors] == [384, 384] and close(embeddings.embed_query(texts[0]), vectors[0])
    assert (
        len(
            OpenAIEmbeddings(**embeddings_options, check_embedding_ctx_length=False, chunk_size=1).embed_documents(
                texts
            )
        )
        == 2
    )


async def check_embeddings_in_both_formats():
    as_base64 = OpenAIEmbeddings(
        **embeddings_options, check_embedding_ctx_length=False, model_kwargs={"encoding_format": "base64"}
    )
    (vector,) = await as_base64.aembed_documents(["bonds"])
    if isinstance(vector, str):
        vector = struct.unpack("<384f", base64.b64decode(vector))
    assert close(vector, embeddings.embed_query("bonds"))


def check_embeddings_of_token_ids():
    """By default the class sends token ids of OpenAI's tokenizer. Ids that the model lacks are refused."""
    model = OpenAIEmbeddings(**embeddings_options)
    error = raises(openai.BadRequestError, lambda: model.embed_query("antidisestablishmentarianism zxqv"))
    assert error.param == "input", error


if __name__ == "__main__":
    run(globals())
