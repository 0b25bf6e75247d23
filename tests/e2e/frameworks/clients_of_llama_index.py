"""Calls a gateway with the LLMs, embeddings, chat engine and agents of LlamaIndex: `... URL KEY`."""

# mypy: ignore-errors
from typing import Literal

import openai
from checks import EMBEDDING_MODEL, MODEL, QUESTION, base_url, key, raises, run
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Trade(BaseModel):
    """A trade."""

    ticker: Literal["AAPL", "MSFT"]
    quantity: Literal[1, 5, 9]


def price(ticker: Literal["AAPL", "MSFT"], currency: Literal["USD", "EUR"]) -> float:
    """Return the price of a stock."""
    return 101.5


options = {"model": MODEL, "api_base": base_url, "api_key": key, "temperature": 0, "max_retries": 0}
like = options | {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
llm = OpenAILike(**like, max_tokens=20)
caller = OpenAILike(**like, max_tokens=60)
responses = OpenAIResponses(**options, max_output_tokens=60, context_window=2048)
embedding = OpenAIEmbedding(model_name=EMBEDDING_MODEL, api_base=base_url, api_key=key, max_retries=0)
TOOLS = [FunctionTool.from_defaults(price)]
HELLO = [ChatMessage(role=MessageRole.SYSTEM, content="You are brief."), ChatMessage(content="Say hello")]


def check_chat_stream_and_usage():
    answer = llm.chat(HELLO)
    assert answer.message.content and answer.raw.usage.completion_tokens > 0
    chunks = list(llm.stream_chat(HELLO))
    assert chunks[-1].message.content == answer.message.content and len(chunks) > 3
    assert llm.complete("Say hello").text


async def check_async():
    assert (await llm.achat(HELLO)).message.content
    chunks = [chunk async for chunk in await llm.astream_chat(HELLO)]
    assert chunks[-1].message.content


def check_completion():
    model = OpenAILike(**options, is_chat_model=False, max_tokens=5)
    assert (
        model.complete("The capital of France is").text
        == list(model.stream_complete("The capital of France is"))[-1].text
    )


def check_tools():
    for choice in ({"tool_required": True}, {"tool_choice": "required"}, {"tool_choice": "price"}):
        answer = caller.chat_with_tools(TOOLS, QUESTION, allow_parallel_tool_calls=False, **choice)
        (call,) = caller.get_tool_calls_from_response(answer)
        assert TOOLS[0](**call.tool_kwargs).raw_output == 101.5
    assert llm.chat_with_tools(TOOLS, QUESTION, tool_choice="none").message.content
    chunks = list(caller.stream_chat_with_tools(TOOLS, QUESTION, tool_required=True))
    assert caller.get_tool_calls_from_response(chunks[-1])


def check_predict_and_call():
    assert caller.predict_and_call(TOOLS, QUESTION, tool_required=True).sources[0].raw_output == 101.5


def check_structured_output():
    for model in (caller, OpenAILike(**like | {"should_use_structured_outputs": False}, max_tokens=60)):
        assert isinstance(model.as_structured_llm(Trade).complete("Buy 5 AAPL").raw, Trade)


def check_chat_engine():
    engine = SimpleChatEngine.from_defaults(llm=llm)
    assert engine.chat("Say hello").response and "".join(engine.stream_chat("Again").response_gen)
    assert len(engine.chat_history) == 4
    engine.reset()


async def check_function_agent():
    agent = FunctionAgent(tools=[price], llm=caller, initial_tool_choice="price", timeout=100)
    handler = agent.run(QUESTION, max_iterations=4, early_stopping_method="generate")
    events = [event async for event in handler.stream_events()]
    assert any(isinstance(event, ToolCallResult) and event.tool_output.raw_output == 101.5 for event in events)
    assert any(isinstance(event, AgentStream) for event in events)
    assert await handler


def check_responses_api():
    assert responses.chat(HELLO).message.content
    assert list(responses.stream_chat(HELLO))[-1].message.content
    answer = responses.chat_with_tools(TOOLS, QUESTION, tool_required=True)
    (call,) = responses.get_tool_calls_from_response(answer)
    assert call.tool_name == "price"
    assert isinstance(responses.as_structured_llm(Trade).complete("Buy 5 AAPL").raw, Trade)


def check_embeddings_and_search():
    documents = [Document(text="The fund buys government bonds."), Document(text="Cats sleep all day.")]
    index = VectorStoreIndex.from_documents(documents, embed_model=embedding)
    (best,) = index.as_retriever(similarity_top_k=1).retrieve("Which bonds does the fund hold?")
    assert "bonds" in best.text
    engine = index.as_chat_engine(chat_mode="context", llm=llm, similarity_top_k=1)
    assert engine.chat("Which bonds?").source_nodes


async def check_embeddings_of_a_batch():
    vectors = await embedding.aget_text_embedding_batch(["bonds"] * 25)
    assert [len(vector) for vector in vectors] == [384] * 25
    small = OpenAIEmbedding(model_name=EMBEDDING_MODEL, api_base=base_url, api_key=key, max_retries=0, dimensions=64)
    error = raises(openai.BadRequestError, lambda: small.get_text_embedding("bonds"))
    assert error.param == "dimensions", error


def check_errors():
    raises(openai.NotFoundError, lambda: OpenAILike(**like | {"model": "unknown"}).chat(HELLO))
    raises(openai.AuthenticationError, lambda: OpenAILike(**like | {"api_key": "wrong"}).chat(HELLO))
    raises(openai.BadRequestError, lambda: llm.complete("word " * 20_000))


if __name__ == "__main__":
    run(globals())
