"""One error tree. Errors of Kafka, Flink's REST or the operating system are chained as causes and never leak.

Each error carries ``hint``: what to do next. The command line prints message and hint and exits with the class's
``exit_code`` (0 ok, 1 failed, 2 usage, 3 job failed or cancelled, 4 not found, 124 time-out, 130 interrupted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BeamK8sError",
    "ConfigError",
    "Conflict",
    "DecodeError",
    "FlinkError",
    "Forbidden",
    "ImageError",
    "JobFailed",
    "KafkaError",
    "KubernetesError",
    "LocalClusterError",
    "NoPythonForm",
    "NotFound",
    "NotHere",
    "TimedOut",
]


class BeamK8sError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        message: what is wrong, with the option and its value where there is one.
        hint: the way out, one sentence. May be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(BeamK8sError, ValueError):
    """A setting is wrong. Raised before anything is created."""

    exit_code = 2

    @classmethod
    def of_all(cls, errors: Sequence[BeamK8sError]) -> ConfigError:
        """Join all that is wrong into one error, so that a user mends everything at once."""
        if len(errors) == 1:
            return cls(errors[0].message, hint=errors[0].hint)
        lines = "\n".join(f"- {error}" for error in errors)
        return cls(f"{len(errors)} settings are wrong:\n{lines}")


class NoPythonForm(ConfigError):  # noqa: N818 - says what is missing
    """Kafka properties that only Java's client can use: fine on Flink, wrong where the client is Python."""


class NotHere(ConfigError):  # noqa: N818 - says what is missing
    """A secret that is referred to is not on this machine; in the workers it may be."""


class KafkaError(BeamK8sError):
    """A broker could not be reached, or refused."""


class DecodeError(BeamK8sError):
    """A record was read that its deserializer fails on."""


class FlinkError(BeamK8sError):
    """Flink's REST endpoint could not be reached, or refused."""


class ImageError(BeamK8sError):
    """An image cannot be built or pushed."""


class LocalClusterError(BeamK8sError):
    """The Flink processes on this machine could not be started or kept running."""


class JobFailed(BeamK8sError, RuntimeError):  # noqa: N818 - reads as the event it reports
    """The job ended in another state than DONE. Also a RuntimeError, which Beam's users catch."""

    exit_code = 3


class KubernetesError(BeamK8sError):
    """The API server could not be reached, or refused."""


class Forbidden(KubernetesError):  # noqa: N818 - named as Kubernetes names it
    """The user lacks a right; the message names verb, resource and namespace."""


class Conflict(KubernetesError):  # noqa: N818 - named as Kubernetes names it
    """There is an object of that name, or somebody else has changed it."""


class NotFound(BeamK8sError):  # noqa: N818 - named as Kubernetes names it
    """No such job or object."""

    exit_code = 4


class TimedOut(BeamK8sError):  # noqa: N818 - says what happened
    """Something that was waited for did not happen in time; it may still."""

    exit_code = 124
