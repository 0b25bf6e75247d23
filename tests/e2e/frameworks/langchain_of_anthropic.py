"""Calls a gateway with langchain-anthropic: `langchain_of_anthropic.py URL KEY`."""

# mypy: ignore-errors
import anthropic
from checks import MODEL, QUESTION, key, raises, run, url
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage
from trading import TOOLS, Trade, price

options = {"model": MODEL, "base_url": url, "api_key": key, "max_retries": 0}
chat = ChatAnthropic(**options, max_tokens=20)
caller = ChatAnthropic(**options, max_tokens=80)


def check_chat_with_usage():
    answer = chat.invoke([SystemMessage("You are brief."), HumanMessage("Say hello")])
    assert answer.text and answer.response_metadata["stop_reason"] in ("end_turn", "max_tokens")
    usage = answer.usage_metadata
    assert usage["input_tokens"] > 0 and usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def check_stream_with_usage():
    chunks = list(chat.stream("Say hello"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert len(chunks) > 3 and total.text and total.usage_metadata["output_tokens"] > 0


async def check_async_batch_and_stream():
    assert all(answer.text for answer in await chat.abatch(["Say hello", "Say goodbye"]))
    assert "".join([chunk.text async for chunk in chat.astream("Say hello")])


def check_count_of_tokens():
    messages = [SystemMessage("You are brief."), HumanMessage("Say hello")]
    assert chat.get_num_tokens_from_messages(messages) == chat.invoke(messages).usage_metadata["input_tokens"]
    assert chat.get_num_tokens_from_messages(messages, tools=TOOLS) > chat.get_num_tokens_from_messages(messages)


def check_every_tool_choice():
    for choice in ("any", "price", {"type": "any"}, {"type": "tool", "name": "price"}):
        (call,) = caller.bind_tools(TOOLS, tool_choice=choice, parallel_tool_calls=False).invoke(QUESTION).tool_calls
        assert call["name"] in ("price", "clock")
    assert not caller.bind_tools(TOOLS, tool_choice={"type": "none"}).invoke(QUESTION).tool_calls
    for choice in ("auto", None):
        answer = caller.bind_tools(TOOLS, tool_choice=choice).invoke(QUESTION)
        assert answer.text or answer.tool_calls
    # The class sends {"type": "tool", "name": "none"}. Anthropic's API refuses it with a 400 as well.
    error = raises(anthropic.BadRequestError, lambda: caller.bind_tools(TOOLS, tool_choice="none").invoke(QUESTION))
    assert "'none'" in str(error) and "tool_choice" in str(error)


def check_strict_tool():
    (call,) = caller.bind_tools(TOOLS, tool_choice="price", strict=True).invoke(QUESTION).tool_calls
    assert price.invoke(call["args"]) == 101.5


def check_streamed_tool_call_and_round_trip():
    total = None
    for chunk in caller.bind_tools(TOOLS, tool_choice="price").stream(QUESTION):
        total = chunk if total is None else total + chunk
    (call,) = total.tool_calls
    assert (
        caller.bind_tools(TOOLS, tool_choice={"type": "none"})
        .invoke([HumanMessage(QUESTION), total, price.invoke(call)])
        .text
    )


def check_structured_output_of_every_method():
    for method in ("function_calling", "json_schema"):
        structured = caller.with_structured_output(Trade, method=method)
        assert isinstance(structured.invoke("Buy 5 AAPL"), Trade), method
        raw = caller.with_structured_output(Trade, method=method, include_raw=True).invoke("Buy 5 AAPL")
        assert isinstance(raw["parsed"], Trade) and raw["parsing_error"] is None, raw


def check_thinking():
    thinking = ChatAnthropic(
        **options, max_tokens=2000, stop_sequences=["."], thinking={"type": "enabled", "budget_tokens": 1024}
    )
    assert thinking.invoke("Say hello")


def check_errors():
    raises(anthropic.NotFoundError, lambda: ChatAnthropic(**options | {"model": "unknown"}).invoke("x"))
    raises(anthropic.AuthenticationError, lambda: ChatAnthropic(**options | {"api_key": "wrong"}).invoke("x"))
    raises(anthropic.BadRequestError, lambda: chat.invoke("word " * 20_000))


if __name__ == "__main__":
    run(globals())
