"""Calls a server with tritonclient over gRPC: `triton_grpc.py URL KEY`. Prints what it found as JSON."""

# mypy: ignore-errors
import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

url, key = sys.argv[1:]
client = triton.InferenceServerClient(url.removeprefix("http://"))
headers = {"authorization": f"Bearer {key}"}
returns = np.linspace(-0.02, 0.02, 66).astype(np.float32).reshape(3, 22)
tensor = triton.InferInput("returns", list(returns.shape), "FP32")
tensor.set_data_from_numpy(returns)
result = client.infer("volatility", [tensor], headers=headers, request_id="7")


def message(**options) -> str:
    try:
        client.infer("volatility", [tensor], **options)
    except InferenceServerException as error:
        return str(error)
    return ""


client.unload_model("volatility", headers=headers)
unloaded = not client.is_model_ready("volatility", headers=headers)
client.load_model("volatility", headers=headers)
print(
    json.dumps(
        {
            "forecasts": {"raw": result.as_numpy("volatility").ravel().tolist()},
            "id": result.get_response().id == "7",
            "live": client.is_server_live(headers=headers),
            "unloaded": unloaded,
            "model_ready": client.is_model_ready("volatility", headers=headers),
            "metadata": client.get_model_metadata("volatility", headers=headers).inputs[0].datatype == "FP32",
            "index": client.get_model_repository_index(headers=headers).models[0].state == "READY",
            "priority_refused": "priority" in message(headers=headers, priority=1),
            "no_key_explained": "there is no key in this request" in message(headers={}),
            "no_json_in_message": "{" not in message(headers={}),
        }
    )
)
