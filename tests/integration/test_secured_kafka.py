"""Jobs on a broker that wants a login: what the launcher may look at, the job may read, and the other way round."""

import textwrap

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.errors import ConfigError, NoPythonForm
from beam_k8s.graph import KafkaSink, KafkaSource
from beam_k8s.launcher.kafka_admin import Brokers
from tests.cluster.kafka import KafkaBroker
from tests.cluster.launch import Launch

PASSWORD = "open-sesame-71"
MODULES = "org.apache.kafka.common.security"
PLAIN = f'{MODULES}.plain.PlainLoginModule required username="ali" password="{PASSWORD}";'
SCRAM = f'{MODULES}.scram.ScramLoginModule required username="ali" password="{PASSWORD}";'
OAUTH = f'{MODULES}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="ali";'

COPY = """
    import sys
    import apache_beam as beam
    from beam_k8s import ReadFromKafka, WriteToKafka

    if __name__ == "__main__":
        broker, mechanism, source, sink = sys.argv[1:5]
        secured = {
            "bootstrap.servers": broker,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": mechanism,
            "sasl.jaas.config": "env:KAFKA_LOGIN",
        }
        with beam.Pipeline(argv=sys.argv[5:]) as p:
            (
                p
                | ReadFromKafka(secured | {"auto.offset.reset": "earliest"}, [source], stop_at="latest")
                | WriteToKafka(secured, sink, delivery_guarantee="exactly_once")
            )
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    # A login counts for so long: one that was taken back is noticed then.
    properties = {"connections.max.reauth.ms": "4000"}
    with KafkaBroker(tmp_path_factory.mktemp("kafka"), users={"ali": PASSWORD}, properties=properties) as broker:
        broker.create_topics({"words": 3})
        broker.produce("words", [(b"k", b"%d" % number) for number in range(100)])
        yield broker


def source(broker, mechanism, login, **properties):
    return KafkaSource(
        transform_id="r",
        name="Read",
        bootstrap_servers=broker.secured_servers,
        topics=("words",),
        properties={
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": mechanism,
            "sasl.jaas.config": login,
            **properties,
        },
    )


def partition_counts(step):
    with Brokers() as brokers:
        return brokers.partition_counts(step)


@pytest.mark.parametrize(("mechanism", "login"), [("PLAIN", PLAIN), ("SCRAM-SHA-512", SCRAM)])
def test_topics_are_looked_at_behind_a_login(secured, mechanism, login, monkeypatch, tmp_path):
    monkeypatch.setenv("KAFKA_LOGIN", login)
    (tmp_path / "login").write_text(login + "\n")
    assert partition_counts(source(secured, mechanism, "env:KAFKA_LOGIN")) == {"words": 3}
    assert partition_counts(source(secured, mechanism, f"file:{tmp_path}/login")) == {"words": 3}


@pytest.mark.parametrize(("mechanism", "login"), [("PLAIN", PLAIN), ("SCRAM-SHA-512", SCRAM)])
def test_a_wrong_password_is_told_from_a_broker_that_does_not_answer(secured, mechanism, login, monkeypatch, capfd):
    monkeypatch.setenv("KAFKA_LOGIN", login.replace(PASSWORD, "wrong-word-72"))
    with pytest.raises(ConfigError, match=r"authentication failed.*refuses the login") as error:
        partition_counts(source(secured, mechanism, "env:KAFKA_LOGIN"))
    assert "wrong-word-72" not in str(error.value) + "".join(capfd.readouterr())


def test_a_mechanism_that_the_broker_does_not_have_is_told(secured, monkeypatch):
    monkeypatch.setenv("KAFKA_LOGIN", SCRAM)
    with pytest.raises(ConfigError, match=r"authentication failed.*SCRAM-SHA-256"):
        partition_counts(source(secured, "SCRAM-SHA-256", "env:KAFKA_LOGIN"))


def test_a_listener_that_speaks_no_tls_is_told_from_a_broker_that_does_not_answer(secured):
    with pytest.raises(ConfigError, match=r"the TLS handshake with .* failed"):
        partition_counts(source(secured, "PLAIN", PLAIN, **{"security.protocol": "SSL"}))


def test_a_reference_that_is_not_there_names_property_and_way_out(secured, monkeypatch):
    monkeypatch.delenv("KAFKA_LOGIN", raising=False)
    step = source(secured, "PLAIN", "env:KAFKA_LOGIN")
    sink = KafkaSink(
        "Read", step.bootstrap_servers, "words", step.properties, exactly_once=False, transactional_id_prefix=None
    )
    missing_login = r"Read: Kafka property sasl\.jaas\.config refers to env:KAFKA_LOGIN"
    with pytest.raises(ConfigError, match=missing_login):
        partition_counts(step)
    with pytest.raises(ConfigError, match=missing_login), Brokers() as brokers:
        brokers.check_sink(sink, None)
    missing = {"ssl.truststore.location": "/no/ca.pem", "ssl.truststore.type": "PEM"}
    with pytest.raises(ConfigError, match=r"ssl\.truststore\.location is /no/ca\.pem, and no such file"):
        partition_counts(source(secured, "PLAIN", PLAIN, **missing))


def test_a_login_that_only_java_can_do_is_no_error_of_the_user(secured):
    with pytest.raises(NoPythonForm, match="OAUTHBEARER"):
        partition_counts(source(secured, "OAUTHBEARER", OAUTH))


@pytest.fixture
def launch(secured, tmp_path):
    """Starts the copying job with a login; gives the launch when it has ended, and its sink."""
    script = tmp_path / "my_pipeline.py"
    script.write_text(textwrap.dedent(COPY))
    launches = []

    def run(mechanism, login, sink="words"):
        flags = ["--runner=FlinkK8s", "--k8s_target=local", "--checkpointing_interval=1000"]
        arguments = [secured.secured_servers, mechanism, "words", sink, *flags]
        launches.append(Launch(script, arguments, tmp_path, {"KAFKA_LOGIN": login} if login else {}))
        launches[-1].wait()
        assert PASSWORD not in launches[-1].output
        return launches[-1]

    yield run
    for each in launches:
        each.kill_all()


@pytest.mark.parametrize(("mechanism", "login"), [("SCRAM-SHA-512", SCRAM), ("OAUTHBEARER", OAUTH)])
def test_a_job_reads_and_writes_behind_a_login(secured, launch, unique, mechanism, login):
    secured.create_topics({unique: 1})
    job = launch(mechanism, login, unique)
    assert job.process.returncode == 0, job.output
    assert sorted(int(record.value) for record in secured.read_topic(unique)) == list(range(100))
    warned = "warning: ReadFromKafka/Source: nobody looked whether words can be read" in job.output
    assert warned is (mechanism == "OAUTHBEARER")
    assert ("unknown number of partitions" in job.output) is warned


def test_a_job_with_a_wrong_password_ends_in_one_clear_error(launch):
    job = launch("PLAIN", PLAIN.replace(PASSWORD, "wrong"))
    assert job.process.returncode != 0
    assert "authentication failed" in job.output
    assert job.output.count("authentication failed") == 1
    assert not job.run_dirs


def test_a_job_without_its_secret_is_refused_for_read_and_write(launch):
    job = launch("PLAIN", None)
    for step in ("ReadFromKafka/Source", "WriteToKafka/Sink"):
        assert f"{step}: Kafka property sasl.jaas.config refers to env:KAFKA_LOGIN" in job.output
    assert not job.run_dirs


def test_a_running_job_whose_login_is_taken_back_tells_it_and_goes_on_when_it_is_given_again(
    secured, unique, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("KAFKA_LOGIN", SCRAM)
    words = f"{unique}-words"
    secured.create_topics({unique: 1, words: 2})
    secured.produce(words, [(b"k", b"%d" % number) for number in range(100)])
    login = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.jaas.config": "env:KAFKA_LOGIN"}
    servers = login | {"bootstrap.servers": secured.secured_servers, "security.protocol": "SASL_PLAINTEXT"}
    flags = ["--runner=FlinkK8s", "--k8s_target=local", "--k8s_task_slots=1", "--checkpointing_interval=1000"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    (
        pipeline
        | ReadFromKafka(servers | {"auto.offset.reset": "earliest"}, [words])
        | WriteToKafka(servers, unique, delivery_guarantee="exactly_once")
    )
    result, said = pipeline.run(), ""

    def wait(until):
        nonlocal said
        while not until():
            assert result.wait_until_finish(duration=300) is None
            said += capsys.readouterr().err

    try:
        wait(lambda: len(secured.read_topic(unique)) == 100)
        secured.remove_scram_users()
        wait(lambda: "SaslAuthenticationException" in said)
        secured.add_scram_users()
        secured.produce(words, [(b"k", b"%d" % number) for number in range(100, 110)])
        wait(lambda: len(secured.read_topic(unique)) >= 110)
        assert sorted(int(record.value) for record in secured.read_topic(unique)) == list(range(110))
        assert PASSWORD not in said
    finally:
        result.cancel()
