"""Calls a server with both clients of kserve: `kserve_clients.py URL KEY`. Prints what it found as JSON."""

# mypy: ignore-errors
import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, key = sys.argv[1:]
returns = np.linspace(-0.02, 0.02, 66).astype(np.float32).reshape(3, 22)


def request(*, binary: bool) -> InferRequest:
    tensor = InferInput("returns", list(returns.shape), "FP32")
    tensor.set_data_from_numpy(returns, binary_data=binary)
    return InferRequest(model_name="volatility", infer_inputs=[tensor])


async def main() -> None:
    rest = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    grpc = InferenceGRPCClient(url.removeprefix("http://"))
    metadata = [("authorization", f"Bearer {key}")]
    forecasts = {}
    for binary in (True, False):
        headers = {"authorization": f"Bearer {key}"}  # a new one for each call, since the client changes it
        result = await rest.infer(url, request(binary=binary), model_name="volatility", headers=headers)
        forecasts[f"rest {binary}"] = result.outputs[0].as_numpy().ravel().tolist()
        result = await grpc.infer(request(binary=binary), headers=metadata)
        forecasts[f"grpc {binary}"] = result.outputs[0].as_numpy().ravel().tolist()
    headers = {"authorization": f"Bearer {key}"}
    found = {
        "forecasts": forecasts,
        "rest_live": await rest.is_server_live(url, headers=headers),
        "rest_ready": await rest.is_server_ready(url, headers=headers),
        "rest_model_ready": await rest.is_model_ready(url, "volatility", headers=headers),
        "grpc_live": await grpc.is_server_live(headers=metadata),
        "grpc_model_ready": await grpc.is_model_ready("volatility", headers=metadata),
    }
    print(json.dumps(found))


asyncio.run(main())
