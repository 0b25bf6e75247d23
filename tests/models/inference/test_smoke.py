import grpc
import grpc.aio
import numpy as np

from drw.api.inference.v2 import open_inference_pb2 as pb
from models.inference import onnx_models


async def test_smoke(start, tmp_path):
    f = onnx_models.all_types(tmp_path / "all")
    async with start(
        discovery={
            "models": {
                "all": {
                    "kind": "predictive",
                    "engine": "onnx",
                    "folder": str(onnx_models.identity(tmp_path / "i")),
                    "max_batch": 8,
                },
                "types": {"kind": "predictive", "engine": "onnx", "folder": str(f)},
            }
        }
    ) as c:
        print((await c.http.get("/v2")).text, (await c.http.get("/v2/models/all/ready")).text)
        r = await c.http.post(
            "/v2/models/all/infer",
            json={"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}]},
        )
        print(r.status_code, r.text, r.headers)
        print((await c.http.get("/v2/models/all")).text)
        print((await c.http.get("/v2/models/types")).text[:300])
        print((await c.http.post("/v2/repository/index")).text)
        print(
            (await c.http.get("/v2/models/nope")).text,
            (await c.http.get("/v2/x/y")).text,
            (await c.http.put("/v2")).text,
        )
        print((await c.http.post("/v2/repository/models/all/unload")).text)
        print(c.records()[-1])
        ch = grpc.aio.insecure_channel(c.inference)
        call = ch.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        m = pb.ModelInferRequest(
            model_name="all", id="1", raw_input_contents=[np.array([[1, 2]], np.float32).tobytes()]
        )
        m.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        md = [
            ("x-drw-key", "key_test"),
            ("x-drw-org", "acme"),
            ("x-drw-desk", "research"),
            ("x-drw-scopes", "models:invoke"),
        ]
        print(await call(m, metadata=md))
        await ch.close()
