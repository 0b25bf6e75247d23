"""The Helm chart with several sets of values: lint, schemas of Kubernetes, and what each object must have."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.charts import DIGEST, IMAGE, NAME, PATH, VALUE_SETS, Rendered, containers, merged, of_service
from drw.catalog import BY_NAME, OWNERS, PLACEMENTS
from drw.cli.generate import differences
from drw.cli.platform.serve import process_of
from drw.generate.kubernetes import chart
from drw.generate.protos import ROOT
from drw.kernel.rpc.http.server import PROBE_PATHS
from drw.kernel.runtime.settings import SettingLayers
from drw.local import configuration
from support.hosting import SECRET
from support.json_types import JsonObject

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
CRDS = os.environ.get("DRW_CRDS", "")


@cache
def rendered(name: str) -> Rendered:
    return Rendered(VALUE_SETS[name])


each_set = pytest.mark.parametrize("values", VALUE_SETS)


def is_custom(document: JsonObject) -> bool:
    group = document["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith((".k8s.io",)) or group.startswith("gateway.")


@each_set
def test_helm_lints_the_chart(values: str) -> None:
    result = helm_python.lint(str(PATH), merged(IMAGE, VALUE_SETS[values]), strict=True)
    assert result["errors"] == []
    assert [message["error"] for message in result["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    ("values", "version"),
    [*(("google", version) for version in VERSIONS), *((name, VERSIONS[-1]) for name in VALUE_SETS)],
)
def test_objects_follow_the_strict_schemas_of_kubernetes(values: str, version: str) -> None:
    checked = [document for document in rendered(values).objects if not is_custom(document)]
    for document in checked:
        kubernetes_validate.validate(document, version, strict=True)
    assert len(checked) > 70


def test_strict_schemas_refuse_a_misspelt_field() -> None:
    deployment = json.loads(json.dumps(rendered("defaults").of("Deployment")[of_service("serving")]))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.mark.skipif(not CRDS, reason="DRW_CRDS is not set: a checkout of github.com/datreeio/CRDs-catalog")
@each_set
def test_custom_resources_follow_their_schemas(values: str) -> None:
    for document in filter(is_custom, rendered(values).objects):
        group, _, version = document["apiVersion"].partition("/")
        file = Path(CRDS) / group / f"{document['kind'].lower()}_{version}.json"
        jsonschema.Draft202012Validator(json.loads(file.read_text(encoding="utf-8"))).validate(document)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ("defaults", {"HTTPRoute", "PodMonitor", "PrometheusRule"}),
        (
            "google",
            {"HTTPRoute", "Gateway", "HealthCheckPolicy", "GCPBackendPolicy", "PodMonitoring", "Rules"},
        ),
        ("minimal", set()),
    ],
)
def test_custom_resources_are_those_of_the_values(values: str, kinds: set[str]) -> None:
    assert {document["kind"] for document in rendered(values).objects if is_custom(document)} == kinds


@each_set
def test_each_service_has_its_objects(values: str) -> None:
    objects = rendered(values)
    prefix = VALUE_SETS[values].get("fullnameOverride", NAME)
    for service in BY_NAME.values():
        name = of_service(service.name, prefix)
        deployment = objects.of("Deployment")[name]
        assert deployment["metadata"]["annotations"]["ai.drw.com/owner"] == OWNERS[service.cluster]
        pod = deployment["spec"]["template"]["spec"]
        assert pod["containers"][0]["command"] == ["drw", "serve", service.name]
        assert pod["serviceAccountName"] == name and name in objects.of("ServiceAccount")
        assert objects.of("Service")[name]["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
        scaler = objects.of("HorizontalPodAutoscaler").get(name)
        assert bool(scaler) == (PLACEMENTS[service.name].max_replicas > 0)
        assert ("replicas" in deployment["spec"]) == (scaler is None), "a fixed number would undo the autoscaler"
        replicas = scaler["spec"]["minReplicas"] if scaler else deployment["spec"]["replicas"]
        assert (name in objects.of("PodDisruptionBudget")) == (replicas > 1)
        assert pod["terminationGracePeriodSeconds"] > PLACEMENTS[service.name].drain_seconds + 5


@each_set
def test_pods_are_restricted(values: str) -> None:
    for name, pod in rendered(values).pods().items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all(volume.keys() & {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


@each_set
def test_probes_exist_in_the_processes(values: str) -> None:
    for name, deployment in rendered(values).of("Deployment").items():
        if name.partition("-")[2].startswith(("data-plane", "engine")):
            continue
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        paths = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
        assert [path["path"] for path in paths] == ["/startupz", "/livez", "/readyz"]
        assert {path["path"] for path in paths} < PROBE_PATHS
        assert {ports[path["port"]] for path in paths} == {8001}


@each_set
def test_profile_is_valid_and_names_every_process(values: str, tmp_path: Path) -> None:
    objects = rendered(values)
    prefix = VALUE_SETS[values].get("fullnameOverride", NAME)
    files = []
    for name, text in objects.of("ConfigMap")[f"{prefix}-profile"]["data"].items():
        files.append(tmp_path / name)
        files[-1].write_text(text, encoding="utf-8")
    all_variables = {"DRW__VALKEY": ""}
    for service in BY_NAME:
        deployment = objects.of("Deployment")[of_service(service, prefix)]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        environ = {entry["name"]: entry.get("value", SECRET) for entry in container["env"]}
        assert [Path(file).name for file in environ.pop("DRW_CONFIG").split(":")] == [file.name for file in files]
        all_variables |= environ
        profile = SettingLayers(files, environ).profile()
        assert process_of(profile, [service]) == service
        address = profile.processes[service]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        host = f"{of_service(service, prefix)}.ai.svc.cluster.local"
        assert (address.grpc, address.http) == (f"{host}:{ports['grpc']}", f"{host}:{ports['http']}")
        assert address.listener(address.grpc) == f"0.0.0.0:{ports['grpc']}"
        assert address.probes == f"0.0.0.0:{ports['probes']}"
        assert profile.migrations == "await" and profile.drain_seconds == PLACEMENTS[service].drain_seconds
    assert configuration.errors(SettingLayers(files, all_variables)) == []
    assert profile.data_plane is not None and profile.data_plane.metrics == "0.0.0.0:8001"


@each_set
def test_no_secret_is_rendered_and_nothing_is_random(values: str) -> None:
    assert not rendered(values).of("Secret")
    assert Rendered(VALUE_SETS[values], is_upgrade=True).text == rendered(values).text


def test_only_authentication_reads_its_secret() -> None:
    readers = {
        name
        for name, pod in rendered("kafka").pods().items()
        for container in containers(pod)
        for entry in container["env"]
        if entry["name"] == "DRW__AUTHENTICATION__SECRET"
    }
    assert readers == {"platform-authentication"}


def job(values: JsonObject) -> str:
    (name,) = Rendered(values).of("Job")
    return name


def test_migrations_job_is_new_for_each_image_and_unchanged_otherwise() -> None:
    name = job({})
    assert DIGEST.removeprefix("sha256:")[:12] in name
    assert job({"services": {"serving": {"replicas": 5}}}) == name
    assert job({"image": {"digest": "sha256:" + "cd" * 32}}) != name
    assert job({"postgres": {"secret": {"name": "other"}}}) != name, "a Job cannot be changed"
    annotations = rendered("defaults").of("Job")[name]["metadata"].get("annotations", {})
    assert not any("hook" in key for key in annotations)


def test_volume_of_one_node_refuses_several_replicas() -> None:
    with pytest.raises(helm_python.HelmError, match="services.log: several replicas need a volume"):
        Rendered({"services": {"log": {"replicas": 2}}})


def test_data_plane_drains_before_it_ends() -> None:
    deployment = rendered("defaults").of("Deployment")["drw-data-plane"]
    pod = deployment["spec"]["template"]["spec"]
    (envoy,) = pod["containers"]
    (agent,) = pod["initContainers"]
    command = envoy["lifecycle"]["preStop"]["exec"]["command"]
    seconds = [int(argument.partition("=")[2]) for argument in command if "=" in argument]
    assert command[:3] == ["drw", "data-plane", "drain"] and len(seconds) == 2
    assert pod["terminationGracePeriodSeconds"] > sum(seconds)
    assert agent["restartPolicy"] == "Always", "a sidecar starts before Envoy and ends after it"
    assert rendered("defaults").of("HorizontalPodAutoscaler")["drw-data-plane"]["spec"]["minReplicas"] >= 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize(("values", "kind"), [("defaults", "PrometheusRule"), ("google", "Rules")])
def test_alert_rules_are_those_of_the_platform(values: str, kind: str) -> None:
    for file in ("drw", "slo"):
        source = ROOT / "deploy" / "observability" / "rules" / f"{file}.yaml"
        assert rendered(values).of(kind)[f"drw-{file}"]["spec"] == yaml.safe_load(source.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("values", "kind"), [("kafka", "PodMonitor"), ("google", "PodMonitoring")])
def test_scrapes_reach_the_metrics_of_every_process(values: str, kind: str) -> None:
    objects, prefix = rendered(values), VALUE_SETS[values].get("fullnameOverride", NAME)
    paths = {of_service(name, prefix): f"/metrics/{name}" for name in BY_NAME}
    paths[f"{prefix}-data-plane"] = "/metrics/agent"
    scraped = {}
    for name, monitor in objects.of(kind).items():
        spec = monitor["spec"]
        (endpoint,) = spec["podMetricsEndpoints" if kind == "PodMonitor" else "endpoints"]
        (pod,) = [
            pod
            for pod, template in objects.pods().items()
            if spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        ]
        ports = {
            port["name"]
            for container in containers(objects.pods()[pod])
            for port in container["ports"]
            if port["containerPort"] == 8001
        }
        assert ports == {endpoint["port"]}
        job = name if kind == "PodMonitoring" else objects.pods()[pod]["metadata"]["labels"][spec["jobLabel"]]
        assert job.startswith("drw"), "the alert rules select jobs by this prefix"
        scraped[pod] = endpoint["path"]
    assert scraped == paths


def test_workload_identity_is_one_account_for_each_service() -> None:
    accounts = {
        name: account["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account")
        for name, account in rendered("google").of("ServiceAccount").items()
        if "engine" not in name
    }
    assert accounts == {name: f"{name}@acme-prod.iam.gserviceaccount.com" for name in accounts}


def test_values_follow_the_catalog_and_drift_is_reported() -> None:
    values = yaml.safe_load((PATH / "values.yaml").read_text(encoding="utf-8"))
    assert {name: each.get("calls", []) for name, each in values["services"].items()} == {
        service.name: list(service.calls) for service in BY_NAME.values()
    }
    assert PLACEMENTS.keys() == BY_NAME.keys()
    files = chart.files()
    assert not [line for line in differences(files, ROOT) if "deploy/helm" in line]
    path = f"{chart.CHART}/values.yaml"
    drifted = files | {path: files[path].replace('calls: ["rate_limiting"]', "calls: []")}
    assert f"{path} is not up to date: run `drw generate`" in differences(drifted, ROOT)
