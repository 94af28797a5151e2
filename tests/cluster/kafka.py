"""A real Kafka broker for tests and demos: one KRaft node from Maven's jars, on loopback, without Docker.

    with KafkaBroker(folder) as broker:
        broker.create_topics({"flights": 3})
        ... broker.bootstrap_servers ...

It stops when the ``with`` block ends, whatever happened in it. The data stay in the folder: a broker started on it
again has the same topics, on the same port.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import UserScramCredentialDeletion, UserScramCredentialUpsertion
from kafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from tests.cluster.certificates import Authority

__all__ = ["BrokerError", "KafkaBroker", "StoredRecord", "kafka_lib"]

KAFKA_VERSION = "4.1.1"
START_SECONDS = 90
"""Longest wait for a start [s]. It takes 4 to 6 on a quiet machine."""

_POM = Path(__file__).with_name("kafka-pom.xml")
_REPO = Path(__file__).resolve().parents[2]


class BrokerError(RuntimeError):
    """The broker did not start, or ended by itself. The message ends with the tail of its log."""


class StoredRecord(NamedTuple):
    """A record as the broker has it. ``timestamp`` in ms; ``timestamp_type`` 0 create, 1 log append."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def kafka_lib() -> Path:
    """Return the folder of the broker's jars: BEAM_K8S_KAFKA_LIB, or a cache that Maven fills on the first call.

    Raises:
        subprocess.CalledProcessError: Maven failed.
    """
    given = os.environ.get("BEAM_K8S_KAFKA_LIB")
    if given:
        return Path(given)
    lib = _REPO / ".cache" / f"kafka-{KAFKA_VERSION}" / "lib"
    lib.parent.mkdir(parents=True, exist_ok=True)
    # Test processes side by side fill it once; a folder that is there is complete, because it was renamed into place.
    with (lib.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lib.is_dir():
            part = lib.with_name("lib.part")
            shutil.rmtree(part, ignore_errors=True)
            subprocess.run(
                [
                    *("mvn", "-q", "-B", "-f", str(_POM)),
                    "dependency:copy-dependencies",
                    f"-DoutputDirectory={part}",
                    f"-Dkafka.version={KAFKA_VERSION}",
                ],
                check=True,
                stdout=sys.stderr,
            )
            part.rename(lib)
    return lib


class KafkaBroker:
    """One broker process.

    Args:
        folder: where its configuration, data and log lie; made if it is missing.
        properties: broker settings beyond ours, for example ``{"log.retention.ms": "1000"}``.
        users: name -> password of those who may log in at another listener, ``servers("SASL_PLAINTEXT")``, which wants
            SASL (PLAIN, SCRAM-SHA-512, or OAUTHBEARER with Kafka's unsecured tokens, for anybody). None: no such
            listener.
        authority: who signs its certificate for localhost, and those that it wants of its clients at another listener,
            ``servers("SSL")``; with ``users`` there is ``servers("SASL_SSL")`` too. None: no such listeners.
        heap: of the JVM, as ``-Xmx`` wants it.
        address: where it listens; ``tests.cluster.kube.HOST`` is the one that the test cluster's pods reach.
        beside: a broker that runs and is the controller of this one too: both are one Kafka cluster.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        properties: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        authority: Authority | None = None,
        heap: str = "512m",
        address: str = "127.0.0.1",
        beside: KafkaBroker | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.node = 1 if beside is None else beside.node + 1
        self._beside = beside
        self.log_file = self.folder / "broker.log"
        self._properties = dict(properties or {})
        self._users = users
        self._authority = authority
        self._listeners = [
            *(["SASL_PLAINTEXT"] if users is not None else []),
            *(["SSL"] if authority is not None else []),
            *(["SASL_SSL"] if users is not None and authority is not None else []),
        ]
        self._heap = heap
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: tuple[int, ...] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` of the broker. Known after the first start, and kept over restarts."""
        if self._ports is None:
            raise BrokerError("The broker was not started yet.")
        return f"{self._address}:{self._ports[0]}"

    def servers(self, protocol: str) -> str:
        """``host:port`` of the listener of that ``security.protocol``; TLS has localhost, as the certificate says."""
        assert self._ports is not None
        host = "localhost" if protocol.endswith("SSL") else self._address
        return f"{host}:{self._ports[2 + self._listeners.index(protocol)]}"

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it serves. Formats the storage the first time. Does nothing if it runs.

        Raises:
            BrokerError: it ended, or did not serve in time.
        """
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lib = kafka_lib()
        remembered = self._remembered_ports()
        # Ports that were free a moment ago may be taken when the JVM is up: a first start tries others.
        for last in (False, False, True) if remembered is None else (True,):
            self._ports = remembered or free_ports(2 + len(self._listeners))
            config = self._write_config()
            if not (self.folder / "data" / "meta.properties").exists():
                self._format(lib, config)
            self._spawn(lib, config)
            try:
                self._wait_until_it_serves()
            except BaseException as error:
                self.kill()
                if last or not isinstance(error, BrokerError) or not self._lost_its_port():
                    raise
                # The controller's address is in the storage.
                shutil.rmtree(self.folder / "data", ignore_errors=True)
            else:
                self.add_scram_users()
                return

    def stop(self, *, timeout: float = 30) -> None:
        """Stop in order (SIGTERM), by force after ``timeout`` [s]. Does nothing if it does not run."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """Stop as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL, 30)

    def restart(self) -> None:
        """Stop in order and start again, on the same port with the same data."""
        self.stop()
        self.start()

    def create_topics(self, topics: Mapping[str, int], *, config: Mapping[str, str] | None = None) -> None:
        """Create topics (name -> partitions) and wait until every partition has its leader."""
        with self.admin() as admin:
            admin.create_topics(
                {
                    name: {
                        "num_partitions": partitions,
                        "replication_factor": -1,  # as the broker has it
                        "configs": dict(config or {}),
                    }
                    for name, partitions in topics.items()
                },
                wait_for_metadata=True,
            )

    def admin(self) -> KafkaAdminClient:
        """An admin client; close it, or use it as a context manager."""
        return KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)

    def produce(
        self,
        topic: str,
        records: Iterable[tuple[bytes | None, bytes | None] | tuple[bytes | None, bytes | None, Mapping[str, object]]],
    ) -> int:
        """Write (key, value) or (key, value, options) and wait for all; return how many.

        Options are kafka-python's of ``send``: ``partition``, ``timestamp_ms``, ``headers``.
        """
        producer = KafkaProducer(bootstrap_servers=self.bootstrap_servers, linger_ms=20, batch_size=1 << 17)
        try:
            sent = []
            for key, value, *options in records:
                sent.append(producer.send(topic, key=key, value=value, **(options[0] if options else {})))
            producer.flush()
            for future in sent:
                future.get(timeout=30)
        finally:
            producer.close()
        return len(sent)

    def read_topic(
        self,
        topic: str,
        *,
        committed_only: bool = True,
        offsets: Mapping[int, int] | None = None,
        timeout: float = 60,
    ) -> list[StoredRecord]:
        """All records of a topic up to its present end, by partition and offset; the tests' own eyes.

        Args:
            topic: its name.
            committed_only: leave out what aborted or open transactions wrote.
            offsets: where to start (partition -> offset) instead of at the beginning.
            timeout: longest time without progress [s].

        Raises:
            TimeoutError: the end was not reached.
        """
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap_servers,
            enable_auto_commit=False,
            isolation_level="read_committed" if committed_only else "read_uncommitted",
            max_poll_records=10_000,
        )
        try:
            names = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
            if not names:
                raise LookupError(f"The broker has no topic {topic}.")
            ends = consumer.end_offsets(names)
            consumer.assign(names)
            beginning = consumer.beginning_offsets(names)
            for name in names:
                consumer.seek(name, max(beginning[name], (offsets or {}).get(name.partition, 0)))
            found: list[StoredRecord] = []
            patience = time.monotonic() + timeout
            while any(consumer.position(name) < ends[name] for name in names):
                polled = consumer.poll(timeout_ms=500)
                if polled:
                    patience = time.monotonic() + timeout
                elif time.monotonic() > patience:
                    raise TimeoutError(f"{topic}: no progress for {timeout} s, {len(found)} read.")
                found += [
                    StoredRecord(
                        topic=topic,
                        partition=name.partition,
                        offset=record.offset,
                        timestamp=record.timestamp,
                        timestamp_type=record.timestamp_type,
                        key=record.key,
                        value=record.value,
                        headers=tuple(record.headers or ()),
                    )
                    for name, records in polled.items()
                    for record in records
                    if record.offset < ends[name]
                ]
        finally:
            consumer.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def end_offsets(self, topic: str) -> dict[int, int]:
        """End offset of each partition."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap_servers)
        try:
            names = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
            return {name.partition: end for name, end in consumer.end_offsets(names).items()}
        finally:
            consumer.close()

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """Committed offset of each partition that the group has one for."""
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap_servers, group_id=group, enable_auto_commit=False)
        try:
            found = {n: consumer.committed(TopicPartition(topic, n)) for n in consumer.partitions_for_topic(topic)}
        finally:
            consumer.close(autocommit=False)
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the broker's log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    def add_scram_users(self) -> None:
        """Let the users log in with SCRAM-SHA-512; again, if they were removed."""
        if self._users:
            with self.admin() as admin:
                admin.alter_user_scram_credentials(
                    [UserScramCredentialUpsertion(user, "SCRAM-SHA-512", word) for user, word in self._users.items()]
                )

    def remove_scram_users(self) -> None:
        """Let them log in with it no more."""
        with self.admin() as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialDeletion(user, "SCRAM-SHA-512") for user in self._users or ()]
            )

    def _remembered_ports(self) -> tuple[int, ...] | None:
        if self._ports is not None and (self.folder / "data" / "meta.properties").exists():
            return self._ports
        with contextlib.suppress(FileNotFoundError, ValueError):
            ports = tuple(int(port) for port in (self.folder / "ports").read_text().split())
            if (self.folder / "data" / "meta.properties").exists():
                return ports
        return None

    def _write_config(self) -> Path:
        leader = self if self._beside is None else self._beside
        assert self._ports is not None
        assert leader._ports is not None
        broker, controller = self._ports[0], leader._ports[1]
        (self.folder / "ports").write_text(" ".join(map(str, self._ports)))
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self._address}:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self._address}:{broker}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.folder.resolve() / "data"),
            "auto.create.topics.enable": "false",
            # Tests choose their records' times: 30 s after its start the broker would remove those that are too old.
            "log.retention.ms": "-1",
            # One node: all of Kafka's own topics have one replica, and few partitions start faster.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "num.network.threads": "2",
            "num.io.threads": "4",
        } | self._properties
        if self._beside is not None:
            settings["process.roles"] = "broker"
            settings["listeners"] = settings["advertised.listeners"]
        for protocol in self._listeners:
            settings["listeners"] += f",{protocol}://{self.servers(protocol)}"
            settings["advertised.listeners"] += f",{protocol}://{self.servers(protocol)}"
            settings["listener.security.protocol.map"] += f",{protocol}:{protocol}"
            if protocol.startswith("SASL"):
                for mechanism, login in self._logins().items():
                    settings[f"listener.name.{protocol.lower()}.{mechanism}.sasl.jaas.config"] = login
        if self._users is not None:
            settings["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-512,OAUTHBEARER"
        if self._authority is not None:
            settings["ssl.keystore.type"] = settings["ssl.truststore.type"] = "PEM"
            settings["ssl.keystore.location"] = str(self._authority.issue("localhost"))
            settings["ssl.truststore.location"] = str(self._authority.certificate)
            settings["listener.name.ssl.ssl.client.auth"] = "required"
        config = self.folder / "server.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return config

    def _logins(self) -> dict[str, str]:
        """How each mechanism knows who may log in: mechanism -> JAAS."""
        modules = "org.apache.kafka.common.security"
        users = "".join(f' user_{user}="{word}"' for user, word in (self._users or {}).items())
        return {
            "plain": f"{modules}.plain.PlainLoginModule required{users};",
            "scram-sha-512": f"{modules}.scram.ScramLoginModule required;",
            "oauthbearer": f"{modules}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";',
        }

    def _java(self, lib: Path, heap: str, *arguments: str) -> list[str]:
        return [
            *("java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            *("-cp", f"{lib}/*"),
            *arguments,
        ]

    def _format(self, lib: Path, config: Path) -> None:
        # Kafka's own form of a cluster id: 16 bytes as URL-safe base64, which must not look like an option.
        cluster = "-"
        if self._beside is not None:
            with self._beside.admin() as admin:
                cluster = str(admin.describe_cluster()["cluster_id"])
        while cluster.startswith("-"):
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        done = subprocess.run(
            self._java(lib, "128m", "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config)),
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BrokerError(f"Formatting the storage failed:\n{done.stdout}{done.stderr}")

    def _spawn(self, lib: Path, config: Path) -> None:
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._java(lib, self._heap, "kafka.Kafka", str(config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C in a terminal goes to the tests, which then stop it in order.
                start_new_session=True,
            )

    def _wait_until_it_serves(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise BrokerError(f"The broker ended with {self._process.returncode}:\n{self.log_tail()}")
            if self._listens() and self._has_a_broker():
                return
            time.sleep(0.1)
        raise BrokerError(f"The broker did not serve in {START_SECONDS} s:\n{self.log_tail()}")

    def _listens(self) -> bool:
        assert self._ports is not None
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self._address, self._ports[0])) == 0

    def _has_a_broker(self) -> bool:
        # The port is open before the broker has registered with its own controller.
        with contextlib.suppress(KafkaError, OSError), self.admin() as admin:
            return any(each["broker_id"] == self.node for each in admin.describe_cluster()["brokers"])
        return False

    def _lost_its_port(self) -> bool:
        return "Address already in use" in self.log_tail(200)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> tuple[int, ...]:
    sockets: Sequence[socket.socket] = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()
