"""Worked example of a predictive model: forecasts the volatility of the next day, and exports it as ONNX.

`python -m drw.demo.volatility FOLDER [--days DAYS]` generates returns of a GARCH(1,1) process, fits a HAR regression
(Corsi, "A Simple Approximate Long-Memory Model of Realized Volatility", 2009) and writes `model.onnx`. Input `returns`:
FP32, [n, 22], the last 22 daily returns of each instrument, the newest last. Output `volatility`: FP32, [n, 1], of the
next day.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

DAYS, WEEK, MONTH = 4000, 5, 22
SEED = 7
OMEGA, ALPHA, BETA = 2e-6, 0.09, 0.89
"""Parameters of the GARCH(1,1) process: variance = OMEGA + ALPHA * return**2 + BETA * variance."""
OPSET, IR_VERSION = 17, 9


def generate_returns(days: int = DAYS, seed: int = SEED) -> tuple[Any, Any]:
    """Return daily returns and their true volatilities, each of the shape [days]."""
    random = np.random.default_rng(seed)
    returns, volatilities = np.zeros(days), np.zeros(days)
    variance = OMEGA / (1 - ALPHA - BETA)
    for day in range(days):
        volatilities[day] = np.sqrt(variance)
        returns[day] = volatilities[day] * random.standard_normal()
        variance = OMEGA + ALPHA * returns[day] ** 2 + BETA * variance
    return returns, volatilities


def windows(returns: Any) -> Any:
    """Return the 22 returns before each day, of the shape [days - 22, 22]."""
    return np.lib.stride_tricks.sliding_window_view(returns, MONTH)[:-1]


def features(last_returns: Any) -> Any:
    """Return intercept and mean absolute returns over a day, a week and a month, of the shape [n, 4]."""
    absolute = np.abs(last_returns)
    means = [absolute[:, -days:].mean(axis=1) for days in (1, WEEK, MONTH)]
    return np.column_stack([np.ones(len(absolute)), *means])


def fit(returns: Any) -> Any:
    """Return the four coefficients of the least-squares fit of the next absolute return, scaled to a volatility."""
    coefficients, *_ = np.linalg.lstsq(features(windows(returns)), np.abs(returns[MONTH:]), rcond=None)
    return coefficients * np.sqrt(np.pi / 2)  # of a normal distribution, E|x| = volatility * sqrt(2 / pi)


def export(coefficients: Any, folder: Path) -> Path:
    """Write the model as `model.onnx` and return the file. Rows are independent, so that requests can be batched."""
    from onnx import TensorProto, checker, helper, numpy_helper

    averages = np.zeros((MONTH, 3), np.float32)
    for column, days in enumerate((1, WEEK, MONTH)):
        averages[-days:, column] = 1 / days
    constants: dict[str, Any] = {
        "averages": averages,
        "weights": np.asarray(coefficients[1:], np.float32).reshape(3, 1),
        "intercept": np.asarray(coefficients[:1], np.float32),
        "minimum": np.zeros((), np.float32),
    }
    nodes = [
        helper.make_node("Abs", ["returns"], ["absolute"]),
        helper.make_node("MatMul", ["absolute", "averages"], ["means"]),
        helper.make_node("MatMul", ["means", "weights"], ["weighted"]),
        helper.make_node("Add", ["weighted", "intercept"], ["sum"]),
        helper.make_node("Max", ["sum", "minimum"], ["volatility"]),
    ]
    graph = helper.make_graph(
        nodes,
        "volatility",
        [helper.make_tensor_value_info("returns", TensorProto.FLOAT, ["instruments", MONTH])],
        [helper.make_tensor_value_info("volatility", TensorProto.FLOAT, ["instruments", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def main(folder: Path, days: int = DAYS) -> None:
    """Train on the first three quarters of the days, report the error on the others, and export."""
    returns, volatilities = generate_returns(days)
    split = days * 3 // 4
    coefficients = fit(returns[:split])
    forecast = features(windows(returns[split:])) @ coefficients
    actual = volatilities[split + MONTH :]
    print(f"coefficients: {', '.join(f'{value:.4g}' for value in coefficients)}")
    print(f"mean absolute error: {np.abs(forecast - actual).mean():.5f}; mean volatility: {actual.mean():.5f}")
    print(f"constant forecast: {np.abs(np.std(returns[:split]) - actual).mean():.5f}")
    print(f"written: {export(coefficients, folder)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m drw.demo.volatility", description="Train a volatility model.")
    parser.add_argument("folder", type=Path, help="folder for model.onnx")
    parser.add_argument("--days", type=int, default=DAYS, help=f"days of generated returns; default: {DAYS}")
    main(**vars(parser.parse_args()))
