"""Calls a server with tritonclient over HTTP: `triton_http.py URL KEY`. Prints what it found as JSON."""

# mypy: ignore-errors
import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

url, key = sys.argv[1:]
client = triton.InferenceServerClient(url.removeprefix("http://"))
returns = np.linspace(-0.02, 0.02, 66).astype(np.float32).reshape(3, 22)
forecasts = {}


def headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}  # a new one for each call, since the client changes it


for binary in (True, False):
    for encoding in (None, "gzip", "deflate"):
        tensor = triton.InferInput("returns", list(returns.shape), "FP32")
        tensor.set_data_from_numpy(returns, binary_data=binary)
        output = triton.InferRequestedOutput("volatility", binary_data=binary)
        result = client.infer(
            "volatility",
            [tensor],
            outputs=[output],
            headers=headers(),
            request_compression_algorithm=encoding,
            response_compression_algorithm=encoding,
        )
        forecasts[f"{binary} {encoding}"] = result.as_numpy("volatility").ravel().tolist()


def message(**options) -> str:
    try:
        client.infer("volatility", [tensor], **options)
    except InferenceServerException as error:
        return str(error)
    return ""


metadata = client.get_model_metadata("volatility", headers=headers())
print(
    json.dumps(
        {
            "forecasts": forecasts,
            "live": client.is_server_live(headers=headers()),
            "ready": client.is_server_ready(headers=headers()),
            "model_ready": client.is_model_ready("volatility", headers=headers()),
            "unknown_not_ready": not client.is_model_ready("unknown", headers=headers()),
            "metadata": metadata["inputs"] == [{"name": "returns", "datatype": "FP32", "shape": [-1, 22]}],
            "index": client.get_model_repository_index(headers=headers())[0]["state"] == "READY",
            "sequence_refused": "sequence" in message(headers=headers(), sequence_id=7),
            "no_key_explained": "there is no key in this request" in message(headers={}),
        }
    )
)
