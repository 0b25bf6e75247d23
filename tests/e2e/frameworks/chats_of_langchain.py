"""Calls a gateway with langchain-openai over chat completions: `chats_of_langchain.py URL KEY`."""

# mypy: ignore-errors
import openai
from checks import MODEL, QUESTION, base_url, key, raises, run
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from trading import TOOLS, Trade, clock, price

options = {"model": MODEL, "base_url": base_url, "api_key": key, "temperature": 0, "max_retries": 0}
chat = ChatOpenAI(**options, max_tokens=20)
caller = ChatOpenAI(**options, max_tokens=80)


def check_chat_with_usage():
    answer = chat.invoke([SystemMessage("You are brief."), HumanMessage("Say hello")])
    assert answer.content and answer.response_metadata["finish_reason"] in ("stop", "length")
    usage = answer.usage_metadata
    assert usage["input_tokens"] > 0 and usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def check_stream_with_usage():
    chunks = list(ChatOpenAI(**options, max_tokens=20, stream_usage=True).stream("Say hello"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert len(chunks) > 3 and total.content == chat.invoke("Say hello").content
    assert total.usage_metadata["output_tokens"] > 0


async def check_async_batch_and_stream():
    answers = await chat.abatch(["Say hello", "Say goodbye"])
    assert all(answer.content for answer in answers)
    assert "".join([chunk.content async for chunk in chat.astream("Say hello")]) == answers[0].content


def check_batch_keeps_order_and_errors():
    long = [HumanMessage("word " * 20_000)]
    first, second = chat.batch([[HumanMessage("Say hello")], long], return_exceptions=True)
    assert first.content and isinstance(second, openai.BadRequestError)


def check_parameters():
    model = ChatOpenAI(
        **options | {"temperature": 0.5}, n=2, seed=7, top_p=0.9, logprobs=True, top_logprobs=2, stop=["."]
    )
    generations = model.generate([[HumanMessage("Say hello")]]).generations[0]
    assert len(generations) == 2 and not any("." in generation.text for generation in generations)
    assert generations[0].message.response_metadata["logprobs"]["content"][0]["top_logprobs"]


def check_every_tool_choice():
    forced = {"type": "function", "function": {"name": "price"}}
    for choice in ("any", "required", True, "price", forced):
        calls = caller.bind_tools(TOOLS, tool_choice=choice).invoke(QUESTION).tool_calls
        assert [call["name"] in ("price", "clock") for call in calls] == [True], (choice, calls)
    for choice in ("none", "auto", None, False):
        answer = caller.bind_tools(TOOLS, tool_choice=choice).invoke(QUESTION)
        assert answer.content or answer.tool_calls
        assert not (choice == "none" and answer.tool_calls)


def check_strict_tools_and_parallel_calls():
    for parallel in (True, False):
        bound = caller.bind_tools(TOOLS, tool_choice="price", strict=True, parallel_tool_calls=parallel)
        (call,) = bound.invoke(QUESTION).tool_calls
        assert price.invoke(call["args"]) == 101.5


def check_streamed_tool_call():
    total = None
    for chunk in caller.bind_tools(TOOLS, tool_choice="price").stream(QUESTION):
        total = chunk if total is None else total + chunk
    (call,) = total.tool_calls
    assert price.invoke(call["args"]) == 101.5 and not total.invalid_tool_calls


def check_round_trip_of_a_tool():
    messages = [HumanMessage(QUESTION), caller.bind_tools(TOOLS, tool_choice="price").invoke(QUESTION)]
    result = price.invoke(messages[1].tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert caller.bind_tools(TOOLS, tool_choice="none").invoke([*messages, result]).content


def check_round_trip_of_two_calls():
    """A conversation with parallel calls of another model is accepted."""
    calls = [{"name": "clock", "args": {}, "id": f"call_{number}"} for number in range(2)]
    results = [ToolMessage("12:00", tool_call_id=call["id"]) for call in calls]
    assert (
        chat.bind_tools(TOOLS, tool_choice="none")
        .invoke([HumanMessage("Time?"), AIMessage("", tool_calls=calls), *results])
        .content
    )


def check_structured_output_of_every_method():
    for method in ("json_schema", "function_calling"):
        for stream in (False, True):
            structured = caller.with_structured_output(Trade, method=method)
            trade = list(structured.stream("Buy 5 AAPL"))[-1] if stream else structured.invoke("Buy 5 AAPL")
            assert isinstance(trade, Trade), (method, stream)
        raw = caller.with_structured_output(Trade, method=method, include_raw=True, strict=True).invoke("Buy 5 AAPL")
        assert isinstance(raw["parsed"], Trade) and raw["parsing_error"] is None, raw
    # The schema is not part of the request in this mode: the model writes some object.
    as_json = caller.with_structured_output(Trade, method="json_mode", include_raw=True, stop=[":", "}"])
    assert as_json.invoke("Buy 5 AAPL, as JSON")["raw"].content.lstrip().startswith("{")
    schema = Trade.model_json_schema()
    assert Trade.model_validate(caller.with_structured_output(schema, strict=True).invoke("Buy 5 AAPL"))


def check_structured_output_with_tools():
    structured = caller.with_structured_output(Trade, tools=TOOLS, strict=True, include_raw=True)
    answer = structured.invoke("Buy 5 AAPL")
    assert answer["parsing_error"] is None and (isinstance(answer["parsed"], Trade) or answer["raw"].tool_calls), answer


def check_agent():
    agent = create_agent(caller, [clock], system_prompt="Use the tools.")
    state = agent.invoke({"messages": [HumanMessage("What is the time?")]}, {"recursion_limit": 40})
    assert state["messages"][-1].type == "ai"


def check_completion():
    model = OpenAI(model=MODEL, base_url=base_url, api_key=key, temperature=0, max_tokens=5)
    assert model.invoke("The capital of France is") == "".join(model.stream("The capital of France is"))
    assert len(model.generate(["One", "Two"]).generations) == 2


def check_errors():
    error = raises(openai.NotFoundError, lambda: ChatOpenAI(**options | {"model": "unknown"}).invoke("x"))
    assert "unknown" in str(error)
    raises(openai.AuthenticationError, lambda: ChatOpenAI(**options | {"api_key": "wrong"}).invoke("x"))
    error = raises(openai.BadRequestError, lambda: chat.invoke("x", extra_body={"frobnicate": 1}))
    assert error.param == "frobnicate", error
    error = raises(openai.BadRequestError, lambda: caller.bind_tools(TOOLS, tool_choice="other").invoke("x"))
    assert error.param == "tool_choice", error


if __name__ == "__main__":
    run(globals())
