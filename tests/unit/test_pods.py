"""What keeps pods from running is told from what the API server says of them."""

from beam_k8s.pods import deaths, trouble_of_events, trouble_of_pods

SCHEDULED = {"type": "PodScheduled", "status": "True"}


def pod(name="job-abc", conditions=(SCHEDULED,), **container):
    statuses = [{"image": "registry/job@sha256:1", "restartCount": 0, **container}] if container else []
    return {"metadata": {"name": name}, "status": {"conditions": list(conditions), "containerStatuses": statuses}}


def waiting(reason, message="", **more):
    return pod(state={"waiting": {"reason": reason, "message": message}}, **more)


def test_pods_that_run_or_start_are_no_trouble():
    assert trouble_of_pods([]) is None
    assert trouble_of_pods([pod(), pod(state={"running": {}}), waiting("ContainerCreating")]) is None


def test_the_scheduler_is_quoted_and_more_nodes_may_come():
    no_node = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    trouble = trouble_of_pods([pod(conditions=[no_node])])
    assert "0/1 nodes are available: 1 Insufficient cpu." in trouble.message
    assert "--machine_type" in trouble.hint
    assert not trouble.final


def test_an_image_that_cannot_be_pulled_is_named_and_given_up_after_the_second_try():
    first, second = (trouble_of_pods([waiting(reason, "not found")]) for reason in ("ErrImagePull", "ImagePullBackOff"))
    assert "registry/job@sha256:1: not found" in first.message
    assert (first.final, second.final) == (False, True)


def test_a_container_that_dies_again_and_again_says_what_of():
    oom = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    trouble = trouble_of_pods([waiting("CrashLoopBackOff", lastState=oom, restartCount=3)])
    assert "OOMKilled" in trouble.message
    assert "larger --machine_type" in trouble.hint
    assert trouble.final
    assert not trouble_of_pods([waiting("CrashLoopBackOff", lastState=oom, restartCount=1)]).final


def test_what_will_not_be_cured_by_waiting_comes_first():
    pending = pod("a", conditions=[{"type": "PodScheduled", "status": "False", "message": "no room"}])
    assert "a/b" in trouble_of_pods([pending, waiting("InvalidImageName", "a/b")]).message


CREATED = "2026-11-25T03:00:00Z"


def failed(message, at="2026-11-25T03:00:07Z", name="job-85d75c465c"):
    return {"message": message, "lastTimestamp": at, "involvedObject": {"name": name}}


def test_a_quota_and_a_missing_account_are_told_by_events_only():
    quota = 'pods "job-1" is forbidden: exceeded quota: small, requested: limits.cpu=2, used: 0, limited: limits.cpu=1'
    account = 'pods "job-1" is forbidden: error looking up service account a/flink: serviceaccount "flink" not found'
    for message, way_out in ((quota, "ResourceQuota"), (account, "--k8s_service_account")):
        events = [failed("older", "2026-11-25T03:00:02Z"), failed(message)]
        trouble = trouble_of_events(events, "job", CREATED)
        assert message in trouble.message
        assert way_out in trouble.hint
        assert trouble.final
    assert trouble_of_events([], "job", CREATED) is None


def test_what_befell_another_job_or_the_one_before_it_of_that_name_is_not_its_trouble():
    quota = "forbidden: exceeded quota: small"
    others = [failed(quota, at="2026-11-25T02:59:59Z"), failed(quota, name="job-two-85d75c465c")]
    assert trouble_of_events(others, "job", CREATED) is None
    of_workers = failed(quota, name="job-taskmanager-85d75c465c")
    assert trouble_of_events([*others, of_workers], "job", CREATED).final


def test_each_death_is_one_of_its_restart():
    ended = {"terminated": {"exitCode": 1}}
    assert deaths([pod("a", lastState=ended, restartCount=2), pod("b", state={"running": {}})]) == {
        ("a", 2): "it ended with exit code 1"
    }
    assert deaths([pod("a", lastState={"terminated": {"exitCode": 0}})]) == {}
