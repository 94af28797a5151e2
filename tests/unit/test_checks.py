"""What would keep a job from running, judged on plain values."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils import parse_quantity

from beam_k8s import checks
from beam_k8s.names import JOB_SELECTOR
from beam_k8s.versions import BEAM, OPERATORS
from tests.unit.test_spec import build, settings_of

UNITS = ["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]
QUANTITY = st.builds("{}{}".format, st.integers(0, 10**6), st.sampled_from(UNITS))


def needs_of(**given):
    return checks.needs_of(build(settings_of(**given)).deployment.document())


def quota(hard, used=None, **spec):
    metadata = {"name": "compute", "namespace": "team-a"}
    return {"metadata": metadata, "spec": spec, "status": {"hard": hard, "used": used or {}}}


@given(QUANTITY)
def test_a_quantity_is_what_kubernetes_own_client_reads(text):
    assert checks.quantity(text) == parse_quantity(text)


def test_a_job_asks_for_its_workers_and_a_job_manager():
    needs = needs_of(num_workers=3, machine_type="n1-standard-2")
    assert needs.namespace == "team-a"
    assert needs.service_account == "flink"
    assert needs.claims == ()
    assert needs.resources["pods"] == 4
    assert needs.resources["requests.cpu"] == 3 * 2 + Decimal("0.5")
    assert needs.resources["limits.cpu"] == 3 * 2 + 1
    assert needs.resources["limits.memory"] == (3 * 2 * 4096 + 2048) * 2**20


def test_a_claim_of_the_pods_is_asked_for():
    settings = settings_of(storage="file:///data")
    assert checks.needs_of(build(settings, storage_claim="data").deployment.document()).claims == ("data",)


@pytest.mark.parametrize(
    ("hard", "used", "wrong"),
    [
        ({"pods": "2"}, {}, []),
        ({"pods": "2"}, {"pods": "1"}, ["needs 2 of pods, 1 of 2 are left"]),
        ({"count/pods": "1"}, {}, ["needs 2 of count/pods, 1 of 1 are left"]),
        ({"requests.cpu": "1500m"}, {}, []),
        ({"requests.cpu": "1499m"}, {}, ["needs 1.5 of requests.cpu, 1.499 of 1.499 are left"]),
        ({"cpu": "1"}, {"cpu": "2"}, ["needs 1.5 of cpu, 0 of 1 are left"]),
        ({"limits.memory": "6Gi", "secrets": "0"}, {}, []),
        ({"limits.memory": "6Gi"}, {"limits.memory": "1Gi"}, ["needs 6144Mi of limits.memory, 5120Mi of 6144Mi"]),
    ],
)
def test_a_quota_that_is_too_small_is_told_with_what_is_left(hard, used, wrong):
    errors = checks.quota_errors(needs_of(), [quota(hard, used)])
    assert len(errors) == len(wrong)
    for error, text in zip(errors, wrong, strict=True):
        assert text in str(error)
        assert error.hint


@pytest.mark.parametrize(
    ("quotas", "room"),
    [
        ([], None),
        ([quota({"services": "0"})], None),
        ([quota({"pods": "0"}, scopes=["BestEffort"])], None),
        ([quota({"pods": "10"}, {"pods": "7"})], 3),
        ([quota({"pods": "10", "requests.cpu": "9500m"}, {"pods": "7", "requests.cpu": "6"})], 1),  # of two cores each
        ([quota({"pods": "10"}, {"pods": "7"}), quota({"limits.memory": "40Gi"}, {"limits.memory": "24Gi"})], 2),
        ([quota({"pods": "3"}, {"pods": "7"})], 0),
    ],
)
def test_the_least_of_all_quotas_says_for_how_many_more_workers_there_is_room(quotas, room):
    deployment = build(settings_of(num_workers=3, machine_type="n1-standard-2")).deployment.document()
    assert checks.room_for_workers(deployment, quotas) == room


def test_a_quota_of_other_pods_is_none_of_ours():
    assert not checks.quota_errors(needs_of(), [quota({"pods": "0"}, scopes=["BestEffort"])])


@pytest.mark.parametrize(
    ("versions", "wrong"),
    [((), "not installed"), (("v1beta1",), ""), (("v1", "v1beta1"), ""), (("v2",), "only as v2")],
)
def test_the_operators_crd_must_be_there_in_our_version(versions, wrong):
    error = checks.crd_error(versions, "flink.apache.org")
    assert (error is None) == (not wrong)
    assert wrong in str(error)


@pytest.mark.parametrize(
    ("exists", "may_write", "wrong"),
    [
        (True, True, ""),
        (True, None, ""),
        (True, False, "service account flink in namespace team-a may not create configmaps"),
        (False, None, "there is no service account flink in namespace team-a"),
    ],
)
def test_the_pods_account_must_be_there_and_write_config_maps(exists, may_write, wrong):
    error = checks.account_error(needs_of(), exists=exists, may_write=may_write)
    assert (error is None) == (not wrong)
    assert wrong in str(error)


def test_a_claim_must_be_there_with_its_volume():
    assert "no PersistentVolumeClaim data" in str(checks.claim_error("a", "data", None))
    assert "has lost its volume" in str(checks.claim_error("a", "data", {"status": {"phase": "Lost"}}))
    assert checks.claim_error("a", "data", {"status": {"phase": "Pending"}}) is None


def job(name, *, labels=JOB_SELECTOR, **conf):
    return {"metadata": {"name": name, "namespace": "a", "labels": labels}, "spec": {"flinkConfiguration": conf}}


def autoscaler(name, kind="FlinkDeployment"):
    target = {"kind": kind, "name": name}
    return {"metadata": {"name": f"{name}-hpa", "namespace": "a"}, "spec": {"scaleTargetRef": target}}


def test_two_scalers_of_one_job_of_ours_are_found():
    on = {"job.autoscaler.enabled": "true"}
    jobs = [job("plain"), job("auto", **on), job("foreign", labels={}, **on), job("off", **{next(iter(on)): "false"})]
    behind = autoscaler("off-taskmanager", "Deployment")  # the operator's, of the job's TaskManagers
    others = autoscaler("foreign"), autoscaler("off", "Deployment"), autoscaler("plain-taskmanager", "StatefulSet")
    errors = checks.scaler_errors(jobs, [autoscaler("plain"), *others, behind])
    assert [error.message.partition(":")[0] for error in errors] == [
        "job plain has two scalers",
        "job off has two scalers",
        "job auto has two scalers",
    ]
    assert errors[0].hint == "kubectl delete hpa plain-hpa -n a"
    assert errors[2].hint.endswith("kubectl edit flinkdeployment auto -n a")


def operator(**given):
    facts = {"name": "op", "namespace": "flink", "version": "1.7.0", "watched": (), "available": True}
    return checks.Operator(**facts | given)


@pytest.mark.parametrize(
    ("seen", "operators", "state", "message"),
    [
        (True, None, "ok", "it watches namespace a"),
        (False, None, "wrong", "no operator runs, or none watches it"),
        (False, [], "wrong", "no Flink Kubernetes operator is installed"),
        (False, [operator(available=False)], "wrong", "operator op in namespace flink does not run"),
        (False, [operator(watched=("b", "c"))], "wrong", "does not look at namespace a (but b, c)"),
        (False, [operator()], "wrong", "does not look at namespace a."),
    ],
)
def test_an_operator_must_look_at_the_namespace(seen, operators, state, message):
    finding = checks.operator_finding("a", seen=seen, operators=operators)
    assert finding.state == state
    assert message in finding.message
    assert bool(finding.hint) == (state == "wrong")


def test_an_operator_is_known_by_its_deployment():
    container = {"image": "ghcr.io/apache/flink-kubernetes-operator:1.10.0", "env": []}
    deployment = {
        "metadata": {"name": "op", "namespace": "flink"},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"availableReplicas": 1},
    }
    assert checks.operator_of(deployment) == operator(version="1.10.0")
    container |= {"image": "op@sha256:0", "env": [{"name": "WATCH_NAMESPACES", "value": "a,b"}]}
    del deployment["status"]
    assert checks.operator_of(deployment) == operator(version="", watched=("a", "b"), available=False)


@pytest.mark.parametrize(
    ("beam", "operators", "state"),
    [
        (BEAM, [operator(version=OPERATORS[0])], "ok"),
        (BEAM, [operator(version=OPERATORS[1])], "ok"),
        (BEAM, [operator(version="1.9.3")], "ok"),
        (BEAM, [operator(version="1.6.1")], "wrong"),
        (BEAM, [operator(version="1.11.0")], "warning"),
        (BEAM, [operator(version="")], "warning"),
        (BEAM, None, "warning"),
        ("2.60.0", [operator()], "wrong"),
    ],
)
def test_beam_flink_and_operator_must_go_together(beam, operators, state):
    assert checks.version_finding(beam, operators).state == state


def test_the_pod_that_looks_is_like_those_of_the_job():
    settings = settings_of(storage="file:///data", flink_conf={"s3.endpoint": "http://minio"})
    deployment = build(settings, storage_claim="data").deployment.document()
    probe = checks.probe_of(deployment, "runtime:1", ["kafka:9092"])
    assert probe.storage.startswith("file:///data/")
    assert probe.conf["s3.endpoint"] == "http://minio"
    pod, job = checks.probe_pod(probe, "looks")["spec"], deployment["spec"]["podTemplate"]["spec"]
    (container,), (job_container,) = pod["containers"], job["containers"]
    assert pod["securityContext"] == job["securityContext"]
    assert container["securityContext"] == job_container["securityContext"]
    assert pod["serviceAccountName"] == deployment["spec"]["serviceAccount"]
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"][1:]} == {"data"}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp", "/data"]
    assert container["image"] == "runtime:1"


def test_the_pod_that_looks_is_told_no_secret():
    deployment = build().deployment.document()
    deployment["spec"]["flinkConfiguration"] |= {"s3.secret-key": "planted", "s3.endpoint": "there"}
    pod = checks.probe_pod(checks.probe_of(deployment, "runtime:1", []), "looks")
    assert "there" in str(pod)
    assert "planted" not in str(pod)


@pytest.mark.parametrize("check", ["account", "storage", "broker kafka:9092"])
def test_what_the_pod_says_is_a_finding_with_the_way_out(check):
    probe = checks.probe_of(build().deployment.document(), "runtime:1", ["kafka:9092"])
    well, wrong = (checks.probe_finding(probe, check, error) for error in ("", "no route"))
    assert (well.state, wrong.state) == ("ok", "wrong")
    assert well.check == wrong.check == check.partition(" ")[0]
    assert wrong.message.endswith("no route")
    assert wrong.hint
    assert check.rpartition(" ")[2] in wrong.message


def test_missing_rights_are_named_at_once():
    assert checks.rights_error("a", []) is None
    assert "not allowed in namespace a: get pods, list events." in str(
        checks.rights_error("a", ["get pods", "list events"])
    )
