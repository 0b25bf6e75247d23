"""Renders the Helm chart with Helm's library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

from drw.generate.kubernetes.chart import CHART
from drw.generate.protos import ROOT
from support.json_types import Json, JsonObject

PATH = ROOT / CHART
DIGEST = "sha256:" + "ab" * 32
IMAGE: JsonObject = {"image": {"repository": "registry.example/drw", "digest": DIGEST}}
NAME, NAMESPACE = "drw", "ai"

SETTINGS = """\
[services.discovery.models.large]
engine = "openai"
base_url = "https://models.acme.example/v1"
api_key_variable = "LARGE_API_KEY"
"""

VALUE_SETS: dict[str, JsonObject] = {
    "defaults": {},
    "google": {
        "workloadIdentity": {"project": "acme-prod"},
        "monitoring": {"kind": "google"},
        "gateway": {
            "create": True,
            "certificate": "drw-tls",
            "googlePolicies": True,
            "hostnames": ["ai.acme.example"],
            "sectionName": "https",
        },
        "bus": {"adapter": "pubsub", "pubsub": {"project": "acme-prod"}},
        "tracing": {"endpoint": "http://collector.monitoring:4318", "namespace": "monitoring"},
        "weights": {"claim": "drw-weights"},
        "networkPolicies": {"dnsCidrs": ["169.254.20.10/32"]},
        "engines": {
            "llama": {
                "image": f"vllm/vllm-openai@{DIGEST}",
                "args": ["--model=/models/llama", "--served-model-name=llama"],
                "computeClass": "gpu-l4",
                "weightsClaim": "llama",
                "replicas": 2,
                "resources": {"requests": {"cpu": "8", "memory": "32Gi"}, "limits": {"memory": "64Gi"}},
            }
        },
        "services": {
            "documents": {"replicas": 3, "volume": {"accessMode": "ReadWriteMany", "storageClass": "filestore"}}
        },
    },
    "kafka": {
        "bus": {"adapter": "kafka", "kafka": {"bootstrap": "kafka.acme:9092", "username": "drw"}},
        "settings": SETTINGS,
        "services": {
            "serving": {
                "secretVariables": [
                    {
                        "variable": "LARGE_API_KEY",
                        "secret": {"name": "models", "key": "large"},
                    }
                ],
                "nodeSelector": {"pool": "general"},
                "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ai", "effect": "NoSchedule"}],
            }
        },
        "podLabels": {"team": "ai"},
        "priorityClass": "trading",
        "fullnameOverride": "platform",
    },
    "minimal": {
        "migrations": {"enabled": False},
        "gateway": {"enabled": False},
        "networkPolicies": {"enabled": False},
        "monitoring": {"kind": "none"},
        "image": {"digest": "", "tag": "0.1.0", "pullSecrets": ["registry"]},
        "dataPlane": {"maxReplicas": 0},
    },
}
"""Values of several installations."""


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> JsonObject:
    """Return nested values with those of `values` replaced."""
    result = dict(base)
    for key, value in values.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


class Rendered:
    """The objects of a rendered chart."""

    def __init__(self, values: Mapping[str, Json], *, is_upgrade: bool = False, path: Path = PATH) -> None:
        with helm_python.Chart.load(str(path)) as chart:
            templates = chart.render(merged(IMAGE, values), name=NAME, namespace=NAMESPACE, is_upgrade=is_upgrade)
        self.text = {name: text for name, text in templates.items() if not name.endswith(".txt")}
        self.objects: list[JsonObject] = [
            document for text in self.text.values() for document in yaml.safe_load_all(text) if document
        ]

    def of(self, kind: str) -> dict[str, JsonObject]:
        """Return the objects of a kind by their names."""
        return {each["metadata"]["name"]: each for each in self.objects if each["kind"] == kind}

    def pods(self) -> dict[str, JsonObject]:
        """Return the pod templates by the name of their Deployment or Job."""
        return {
            name: each["spec"]["template"] for kind in ("Deployment", "Job") for name, each in self.of(kind).items()
        }


def containers(pod: JsonObject) -> list[JsonObject]:
    """Return all containers of a pod template."""
    found: list[JsonObject] = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return found


def of_service(service: str, prefix: str = NAME) -> str:
    """Return the name of a service's objects."""
    return f"{prefix}-{service.replace('_', '-')}"
