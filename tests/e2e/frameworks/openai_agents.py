"""Runs agents of openai-agents over chat completions and over the Responses API: `openai_agents.py URL KEY`."""

# mypy: ignore-errors
from typing import Literal

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from checks import MODEL, QUESTION, base_url, key, run
from pydantic import BaseModel


class Trade(BaseModel):
    """A trade."""

    ticker: Literal["AAPL", "MSFT"]
    quantity: Literal[1, 5, 9]


@function_tool
def price(ticker: Literal["AAPL", "MSFT"], currency: Literal["USD", "EUR"]) -> float:
    """Return the price of a stock."""
    return 101.5


def models():
    client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)
    return OpenAIChatCompletionsModel(MODEL, client), OpenAIResponsesModel(MODEL, client)


QUIET = RunConfig(tracing_disabled=True)
FIRST = "stop_on_first_tool"


async def check_answer_and_usage():
    for model in models():
        agent = Agent("Broker", instructions="You are brief.", model=model, model_settings=ModelSettings(temperature=0))
        result = await Runner.run(agent, "Say hello", run_config=QUIET)
        assert result.final_output and result.context_wrapper.usage.output_tokens > 0
        again = await Runner.run(
            agent, [*result.to_input_list(), {"role": "user", "content": "Again"}], run_config=QUIET
        )
        assert again.final_output


async def check_stream():
    for model in models():
        agent = Agent("Broker", model=model, model_settings=ModelSettings(temperature=0, include_usage=True))
        stream = Runner.run_streamed(agent, "Say hello", run_config=QUIET)
        kinds = [event.type async for event in stream.stream_events()]
        assert "raw_response_event" in kinds and stream.final_output
        assert stream.context_wrapper.usage.output_tokens > 0


async def check_tool_with_round_trip():
    for model in models():
        settings = ModelSettings(max_tokens=60, temperature=0, tool_choice="price", parallel_tool_calls=False)
        agent = Agent("Broker", model=model, tools=[price], model_settings=settings, tool_use_behavior=FIRST)
        result = await Runner.run(agent, QUESTION, run_config=QUIET)
        assert str(result.final_output) == "101.5", result.final_output
    # Only over chat completions, since the library reports an answer that max_output_tokens ends as an error.
    settings = ModelSettings(max_tokens=10, tool_choice="none")
    speaker = Agent("Speaker", model=models()[0], tools=[price], model_settings=settings)
    assert (await Runner.run(speaker, result.to_input_list(), run_config=QUIET)).final_output


async def check_output_type_with_and_without_tools():
    for model in models():
        for tools in ([], [price]):
            settings = ModelSettings(max_tokens=60, temperature=0)
            agent = Agent(
                "Broker", model=model, tools=tools, output_type=Trade, model_settings=settings, tool_use_behavior=FIRST
            )
            output = (await Runner.run(agent, "Buy 5 AAPL", run_config=QUIET)).final_output
            assert isinstance(output, Trade) or (tools and str(output) == "101.5"), output


async def check_handoff():
    model, _ = models()
    other = Agent("Desk", model=model, model_settings=ModelSettings(max_tokens=10))
    settings = ModelSettings(max_tokens=60, tool_choice="required")
    agent = Agent("Broker", model=model, handoffs=[other], model_settings=settings)
    result = await Runner.run(agent, "Ask the desk", run_config=QUIET)
    assert result.last_agent is other and result.final_output


async def check_errors():
    for model in models():
        model.model = "unknown"
        try:
            await Runner.run(Agent("Broker", model=model), "x", run_config=QUIET)
        except openai.NotFoundError as error:
            assert "unknown" in str(error)
        else:
            raise AssertionError("no error")


if __name__ == "__main__":
    run(globals())
