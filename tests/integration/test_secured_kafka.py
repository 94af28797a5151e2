"""Jobs on a broker that wants a login, or TLS with certificates on both sides: what the launcher may look at, the job
may read, and the other way round.
"""

import textwrap
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_k8s import ReadFromKafka, WriteToKafka
from beam_k8s.errors import ConfigError, NoPythonForm
from beam_k8s.graph import KafkaSink, KafkaSource
from beam_k8s.launcher import kafka_admin
from beam_k8s.launcher.kafka_admin import Brokers
from tests.cluster.certificates import Authority
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
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority, tmp_path_factory):
    # A login counts for so long: one that was taken back is noticed then.
    properties = {"connections.max.reauth.ms": "4000"}
    folder = tmp_path_factory.mktemp("kafka")
    with KafkaBroker(folder, users={"ali": PASSWORD}, authority=authority, properties=properties) as broker:
        broker.create_topics({"words": 3})
        broker.produce("words", [(b"k", b"%d" % number) for number in range(100)])
        yield broker


def source(broker, mechanism, login, **properties):
    return KafkaSource(
        transform_id="r",
        name="Read",
        bootstrap_servers=broker.servers("SASL_PLAINTEXT"),
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
    missing = {"security.protocol": "SSL", "ssl.truststore.location": "/no/ca.pem", "ssl.truststore.type": "PEM"}
    with pytest.raises(ConfigError, match=r"ssl\.truststore\.location is /no/ca\.pem, and no such file"):
        partition_counts(source(secured, "PLAIN", PLAIN, **missing))


def test_a_login_that_only_java_can_do_is_no_error_of_the_user(secured):
    with pytest.raises(NoPythonForm, match="OAUTHBEARER"):
        partition_counts(source(secured, "OAUTHBEARER", OAUTH))


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory):
    """How to connect with TLS, by name: with files, with texts, and with a login in place of a certificate."""
    folder = tmp_path_factory.mktemp("client")
    certificate = authority.issue("client")
    key, begin, chain = certificate.read_text().partition("-----BEGIN CERTIFICATE-----")
    for name, text in {"key": key, "chain": begin + chain, "word": PASSWORD + "\n", "login": PLAIN}.items():
        (folder / name).write_text(text)
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(authority.certificate)}
    mutual = {"security.protocol": "SSL", "ssl.keystore.type": "PEM"}
    return {
        "files": mutual
        | trust
        | {
            "ssl.keystore.location": str(authority.issue("encrypted", password=PASSWORD)),
            "ssl.key.password": f"file:{folder}/word",
        },
        "texts": mutual
        | {
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": f"file:{authority.certificate}",
            "ssl.keystore.key": f"file:{folder}/key",
            "ssl.keystore.certificate.chain": f"file:{folder}/chain",
        },
        "login": trust
        | {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": f"file:{folder}/login",
        },
    }


def copy(broker, flags, reads, write, sink):
    """Copy all words with each way to read them; return the pipeline's result."""
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    servers = {"auto.offset.reset": "earliest"}
    words = [
        pipeline | f"Read{number}" >> ReadFromKafka(servers | over(broker, read), ["words"], stop_at="latest")
        for number, read in enumerate(reads)
    ]
    words | beam.Flatten() | WriteToKafka(over(broker, write), sink, delivery_guarantee="exactly_once")
    return pipeline.run()


def over(broker, properties):
    return {"bootstrap.servers": broker.servers(properties["security.protocol"])} | properties


@pytest.fixture(params=["DirectRunner", "FlinkK8s"])
def flags(request):
    flags = [f"--runner={request.param}"]
    if request.param == "FlinkK8s":
        address = request.getfixturevalue("session_cluster").address
        flags += ["--k8s_target=local", f"--flink_master={address}", "--checkpointing_interval=1000"]
    return flags


def test_a_job_reads_and_writes_over_tls_as_the_launcher_looks(secured, tls, flags, unique, capsys):
    secured.create_topics({unique: 1})
    result = copy(secured, flags, [tls["files"], tls["login"]], tls["texts"], unique)
    assert result.wait_until_finish() == "DONE"
    assert sorted(int(record.value) for record in secured.read_topic(unique)) == sorted([*range(100)] * 2)
    assert "nobody looked" not in capsys.readouterr().err


def test_a_job_that_does_not_know_the_authority_ends_in_one_clear_error(secured, tls, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    known = {name: value for name, value in tls["files"].items() if not name.startswith("ssl.truststore")}
    with pytest.raises(ConfigError, match=r"TLS handshake .* failed .*unable to get local issuer certificate") as error:
        copy(secured, ["--runner=FlinkK8s", "--k8s_target=local"], [known], known, "words")
    assert str(error.value).count("handshake") == 1
    assert "whom we trust (ssl.truststore.location)" in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_a_broker_of_another_name_and_a_client_without_a_certificate_are_refused(secured, tls, monkeypatch):
    monkeypatch.setattr(kafka_admin, "TIMEOUT_MS", 5000)
    elsewhere = secured.servers("SSL").replace("localhost", "127.0.0.1")
    step = replace(source(secured, "", ""), bootstrap_servers=elsewhere, properties=tls["files"])
    with pytest.raises(ConfigError, match=r"TLS handshake .* failed .*not valid for '127\.0\.0\.1'"):
        partition_counts(step)
    step = replace(step, properties=step.properties | {"ssl.endpoint.identification.algorithm": ""})
    assert partition_counts(step) == {"words": 3}
    nobody = {name: value for name, value in step.properties.items() if not name.startswith("ssl.key")}
    with pytest.raises(ConfigError, match=r"TLS handshake .* failed .*alert(?s:.*)who we are \(ssl\.keystore"):
        partition_counts(replace(step, properties=nobody))


@pytest.fixture
def launch(secured, tmp_path):
    """Starts the copying job with a login; gives the launch when it has ended, and its sink."""
    script = tmp_path / "my_pipeline.py"
    script.write_text(textwrap.dedent(COPY))
    launches = []

    def run(mechanism, login, sink="words"):
        flags = ["--runner=FlinkK8s", "--k8s_target=local", "--checkpointing_interval=1000"]
        arguments = [secured.servers("SASL_PLAINTEXT"), mechanism, "words", sink, *flags]
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
    servers = login | {"bootstrap.servers": secured.servers("SASL_PLAINTEXT"), "security.protocol": "SASL_PLAINTEXT"}
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
