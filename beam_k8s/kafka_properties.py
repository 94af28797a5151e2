"""Properties of Kafka's Java client: the references to secrets in them, and their form in kafka-python.

Properties keep Java's names, because on Flink they are given to Java's client. The launcher, which looks at the topics
before a job starts, and the Python form of the read and write both translate them here, so that what may connect in one
place may connect in the other. Also the one place of the core that reads the environment and files: where a reference
is resolved matters (never at the desk for the pipeline's proto), how it is must be the same everywhere.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beam_k8s.errors import ConfigError, NoPythonForm, NotHere

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CONNECTION", "client_settings", "resolve_reference", "resolve_references"]

CONNECTION = ("security.", "sasl.", "ssl.")
"""Begin the properties that say how to connect; all others say how to read or write."""

_LOGGER = logging.getLogger(__name__)
_KAFKA_PYTHON = logging.getLogger("kafka")

# Read together with another property, or without a meaning in Python.
_ABSORBED = {
    "security.protocol",
    "sasl.mechanism",
    "sasl.jaas.config",
    "ssl.truststore.location",
    "ssl.truststore.certificates",
    "ssl.truststore.type",
    "ssl.truststore.password",
    "ssl.keystore.location",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.type",
    "ssl.keystore.password",
    "ssl.key.password",
    "ssl.engine.factory.class",
    "ssl.endpoint.identification.algorithm",
    "ssl.cipher.suites",  # Java's names of ciphers are not OpenSSL's
    "auto.offset.reset",
    "allow.auto.create.topics",
    "enable.auto.commit",
    "group.id",
    "bootstrap.servers",
}
_INTEGERS = {"receive_buffer_bytes", "send_buffer_bytes", "retries"}
_LOGIN = re.compile(r"""(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s;"']+))""")
_KAFKAS_LOGIN = re.compile(r"\.(Plain|Scram)LoginModule\b")
_BLANKS = "".join(map(chr, range(33)))
"""What Java trims: up to the space, and none of Unicode's other blanks."""
_STORES = {"truststore": ("certificates",), "keystore": ("key", "certificate.chain")}
"""What else than a file may give them: texts."""
_PKCS1 = re.compile(r"-----BEGIN (RSA|EC|DSA) PRIVATE KEY-----")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def resolve_reference(name: str, value: str) -> str:
    """Return what ``env:NAME`` or ``file:PATH`` stands for; any other value is returned as it is.

    Line breaks at a file's end are dropped, as in the JVM. Never called while a pipeline is built: its proto lies in an
    image.

    Raises:
        NotHere: the variable or the file is missing here. The secret itself is never in the message.
    """
    if value.startswith("env:"):
        found = os.environ.get(value[4:])
        if found is None:
            raise NotHere(
                f"Kafka property {name} refers to {value}, but no such environment variable is set here.",
                hint="Set it where the pipeline is started and in its workers, for example from a Secret.",
            )
        return found
    if value.startswith("file:"):
        try:
            return Path(value[5:]).read_bytes().decode().rstrip("\r\n")
        except OSError as error:
            reason = error.strerror or type(error).__name__
        except ValueError:  # also what is no UTF-8; that error would carry the content
            reason = "it is no text"
        raise NotHere(
            f"Kafka property {name} refers to {value}, which cannot be read here: {reason}.",
            hint="Mount the file where the pipeline is started and in its workers, for example from a Secret.",
        )
    return value


def resolve_references(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties with all references resolved.

    Raises:
        NotHere: variables or files are missing here; names all of them.
    """
    resolved = {}
    errors = []
    for name, value in properties.items():
        try:
            resolved[name] = resolve_reference(name, value)
        except NotHere as error:
            errors.append(error)
    if errors:
        raise NotHere.of_all(errors)
    return resolved


def client_settings(properties: Mapping[str, str], defaults: Mapping[str, object]) -> dict[str, Any]:
    """Translate properties of Kafka's Java client into keyword arguments of a kafka-python client.

    References (``env:``, ``file:``) are resolved, and values lose blanks at their ends, as in Java's client: a password
    that ends in one fails here too. Properties that kafka-python has no form of are left out, with a
    line in the log, unless it could not connect without them.

    Args:
        properties: by Java's names; values are strings.
        defaults: the client's DEFAULT_CONFIG; its keys and the types of its values decide.

    Raises:
        NoPythonForm: Java's client could connect with them, kafka-python cannot.
        NotHere: a reference that does not resolve, or a file that is missing.
        ConfigError: a value that is wrong for both.
    """
    resolved = {name: value.strip(_BLANKS) for name, value in resolve_references(properties).items()}
    settings: dict[str, Any] = {}
    for name, value in resolved.items():
        if name in _ABSORBED:
            continue
        ours = name.replace(".", "_")
        if ours not in defaults:
            _LOGGER.info("kafka property has no form in kafka-python, left out property=%s", name)
            continue
        try:
            settings[ours] = _converted(ours, value, defaults[ours])
        except ValueError as error:
            # As it was given: what a reference stands for is nobody's to read.
            raise ConfigError(f"Kafka property {name} is {properties[name]!r}.", hint=f"It is {error}.") from None
    if "security.protocol" in resolved:
        settings["security_protocol"] = resolved["security.protocol"].upper()
    _add_login(settings, resolved)
    if settings.get("security_protocol", "").endswith("SSL"):
        settings["ssl_context"] = _tls(resolved, properties)
    # At level DEBUG kafka-python writes its settings and all requests to the log, passwords too.
    if _KAFKA_PYTHON.isEnabledFor(logging.DEBUG):
        _KAFKA_PYTHON.setLevel(logging.INFO)
    return settings


def _converted(ours: str, value: str, default: object) -> object:
    if isinstance(default, bool):
        found = {"true": True, "false": False}.get(value.lower())
        if found is None:
            raise ValueError("true or false")
        return found
    if ours == "acks" and value in ("all", "-1"):
        return "all"
    if ours == "compression_type":
        return None if value == "none" else value
    if isinstance(default, int) or ours in _INTEGERS or ours == "acks":
        try:
            return int(value)
        except ValueError:
            raise ValueError("a whole number") from None
    return value


def _add_login(settings: dict[str, Any], properties: Mapping[str, str]) -> None:
    if not settings.get("security_protocol", "").startswith("SASL"):
        return
    mechanism = properties.get("sasl.mechanism", "GSSAPI").upper()
    if mechanism not in _MECHANISMS:
        raise NoPythonForm(
            f"sasl.mechanism is {mechanism}, which Kafka's Python client cannot do in Java's way.",
            hint="Run with --runner=FlinkK8s, or use PLAIN or SCRAM on other runners.",
        )
    jaas = properties.get("sasl.jaas.config", "")
    login = {
        found[1]: re.sub(r"\\(.)", r"\1", found[2] or found[3] or found[4] or "") for found in _LOGIN.finditer(jaas)
    }
    if "username" not in login or "password" not in login:
        message = f"sasl.mechanism is {mechanism}, but sasl.jaas.config gives no username and password."
        # A login of another kind may have them from elsewhere.
        if not _KAFKAS_LOGIN.search(jaas) or "sasl.client.callback.handler.class" in properties:
            raise NoPythonForm(message, hint="Run with --runner=FlinkK8s, or name them on other runners.")
        raise ConfigError(
            message,
            hint='It reads: org.apache.kafka.common.security.plain.PlainLoginModule required username="..." '
            'password="..."; and comes from a secret (env:NAME or file:PATH).',
        )
    if login.get("tokenauth", "").lower() == "true":
        raise NoPythonForm(
            "sasl.jaas.config logs in with a delegation token, which Kafka's Python client cannot do.",
            hint="Run with --runner=FlinkK8s, or use a password on other runners.",
        )
    settings["sasl_mechanism"] = mechanism
    settings["sasl_plain_username"] = login["username"]
    settings["sasl_plain_password"] = login["password"]


def _tls(properties: Mapping[str, str], given: Mapping[str, str]) -> ssl.SSLContext:
    """Whom we trust, and who we are.

    Args:
        properties: with all references resolved.
        given: as they were given, which is what may be told.
    """
    if "ssl.engine.factory.class" in properties:
        raise NoPythonForm(
            "ssl.engine.factory.class is set, which Kafka's Python client has no form of.",
            hint="Run with --runner=FlinkK8s, or give PEM files on other runners.",
        )
    with _pem("truststore", properties, given) as trusted:
        context = ssl.create_default_context(cafile=trusted)
    with _pem("keystore", properties, given) as own:
        if own is not None:
            if _PKCS1.search(Path(own).read_text(encoding="utf-8")):
                raise ConfigError(
                    "The private key of ssl.keystore is no PKCS#8, and Java's client takes no other.",
                    hint="Convert it: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW.",
                )
            # Without any password OpenSSL would ask the terminal for one.
            context.load_cert_chain(own, password=properties.get("ssl.key.password", ""))
    if properties.get("ssl.endpoint.identification.algorithm") == "":
        context.check_hostname = False
    return context


@contextmanager
def _pem(store: str, properties: Mapping[str, str], given: Mapping[str, str]) -> Iterator[str | None]:
    """A store's file, for a moment where it is given as texts: OpenSSL takes a key from files only. None: not given."""
    names = [name for part in ("location", *_STORES[store]) if (name := f"ssl.{store}.{part}") in properties]
    location = properties.get(f"ssl.{store}.location")
    kind = properties.get(f"ssl.{store}.type", "JKS")
    if names and kind != "PEM":
        # Java's client, too, takes texts only as PEM.
        raise (ConfigError if location is None else NoPythonForm)(
            f"{names[0]} is set and ssl.{store}.type is {kind}; Kafka's Python client takes PEM only.",
            hint=f"Give PEM and set ssl.{store}.type=PEM: Java's client takes it too.",
        )
    if kind == "PEM" and f"ssl.{store}.password" in properties:
        raise ConfigError(
            f"ssl.{store}.password is set, which Java's client refuses beside ssl.{store}.type=PEM.",
            hint="Remove it; the password of an encrypted key is ssl.key.password.",
        )
    try:
        if location is not None or not names:
            yield location
        else:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write("\n".join(properties[name] for name in names))
                file.flush()
                yield file.name
    except FileNotFoundError:
        raise NotHere(
            f"{names[0]} is {given[names[0]]}, and no such file is here.",
            hint="Mount the file where the pipeline is started and in its workers.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(
            f"{' and '.join(names)} cannot be used: {reason}.",
            hint="Give the PEM of "
            + {
                "truststore": "the certificates of those who are trusted.",
                "keystore": "a key with its certificate, and as ssl.key.password that of an encrypted key.",
            }[store],
        ) from None
