package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.flink.runtime.throwable.ThrowableAnnotation;
import org.apache.flink.runtime.throwable.ThrowableType;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.common.InvalidRecordException;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.InvalidTimestampException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.InvalidTxnTimeoutException;
import org.apache.kafka.common.errors.RecordBatchTooLargeException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicAuthorizationException;
import org.apache.kafka.common.errors.TransactionalIdAuthorizationException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/**
 * A write that fails the same way however often it is tried. Flink does not restart a job for it.
 *
 * <p>Its message is all that a user needs, so what it was made of is suppressed and not the cause:
 * the innermost cause is what the launcher shows.
 */
@ThrowableAnnotation(ThrowableType.NonRecoverableError)
public final class WriteFailure extends IOException {
  private static final long serialVersionUID = 1L;

  private static final String SIZE =
      "Write smaller records, or raise the topic's max.message.bytes and"
          + " producer_config['max.request.size'].";
  private static final String RIGHTS = "Ask for the ACLs WRITE and DESCRIBE on the topic.";

  /** What no later try changes -> the way out. */
  private static final Map<Class<? extends Exception>, String> FINAL =
      Map.of(
          RecordTooLargeException.class, SIZE,
          RecordBatchTooLargeException.class, SIZE,
          InvalidTopicException.class, "Correct the topic's name.",
          InvalidRecordException.class, "The broker logs why; a compacted topic wants a key.",
          InvalidTimestampException.class,
              "Write times within the topic's message.timestamp limits.",
          InvalidTxnTimeoutException.class,
              "Lower producer_config['transaction.timeout.ms'], or raise the broker's"
                  + " transaction.max.timeout.ms.",
          TransactionalIdAuthorizationException.class,
              "Ask for the ACLs WRITE and DESCRIBE on the transactional ids.",
          TopicAuthorizationException.class, RIGHTS,
          AuthorizationException.class, RIGHTS);

  /** As KafkaWriter and Kafka's producer name the topic of a record. */
  private static final Pattern TOPIC =
      Pattern.compile(
          "Failed to send data to Kafka (\\S+?)-(?:-1|\\d+)@|Topic (\\S+) not present in metadata");

  private static final Pattern NO_PARTITION =
      Pattern.compile("Partition (\\d+) of topic (\\S+) with partition count (\\d+) is not present");

  private static final String ADMIN_TIMEOUT_MS = "10000";

  private WriteFailure(String message, Throwable what) {
    super(message);
    addSuppressed(what);
  }

  /** Throws if trying again is of no use; returns otherwise. It may ask the broker for the topic. */
  public static void throwIfFinal(Throwable failure, KafkaWriteSpec spec) throws WriteFailure {
    Optional<WriteFailure> found =
        of(failure, spec.topic(), topic -> isMissing(topic, spec.resolvedProperties()));
    if (found.isPresent()) {
      throw found.get();
    }
  }

  /**
   * @param topic of the write; null if each record names its own
   * @param isMissing asks the broker whether it has no such topic
   */
  static Optional<WriteFailure> of(Throwable failure, String topic, Predicate<String> isMissing) {
    String named = causes(failure).flatMap(each -> topic(each).stream()).findFirst().orElse(topic);
    String where = "WriteToKafka" + (named == null ? "" : ", topic " + named) + ": ";
    for (Throwable cause : causes(failure).toList()) {
      if (cause instanceof WriteFailure) {
        return Optional.of((WriteFailure) cause);
      }
      for (Class<?> kind = cause.getClass(); kind != null; kind = kind.getSuperclass()) {
        String hint = FINAL.get(kind);
        if (hint != null) {
          String said = cause.getClass().getSimpleName() + ": " + cause.getMessage();
          return Optional.of(
              new WriteFailure(where + "Kafka refuses a record for good (" + said + "). " + hint, failure));
        }
      }
      Matcher number = NO_PARTITION.matcher(String.valueOf(cause.getMessage()));
      if (number.find()) {
        return Optional.of(
            new WriteFailure(
                "WriteToKafka, topic " + number.group(2) + ": a ProducerRecord names partition "
                    + number.group(1) + ", but the topic has " + number.group(3) + ".",
                failure));
      }
      if ((cause instanceof TimeoutException || cause instanceof UnknownTopicOrPartitionException)
          && named != null
          && isMissing.test(named)) {
        return Optional.of(
            new WriteFailure(
                where + "it does not exist, and the broker does not create it. Create it, and start"
                    + " the job again.",
                failure));
      }
    }
    return Optional.empty();
  }

  /** A transaction of a completed checkpoint that Kafka has aborted or forgotten. */
  public static WriteFailure lost(String transaction, Throwable reason, KafkaWriteSpec spec) {
    return new WriteFailure(
        "WriteToKafka"
            + (spec.topic() == null ? "" : ", topic " + spec.topic())
            + ": records of a completed checkpoint are lost, Kafka no longer takes the commit of their"
            + " transaction " + transaction + " (" + reason.getClass().getSimpleName()
            + "). It aborts one that is open for longer than transaction.timeout.ms, or when another"
            + " job uses the same transactional_id_prefix. Start from an older checkpoint, or anew.",
        reason);
  }

  private static Stream<Throwable> causes(Throwable failure) {
    return Stream.iterate(failure, each -> each != null, Throwable::getCause);
  }

  private static Optional<String> topic(Throwable failure) {
    if (failure instanceof TopicAuthorizationException) {
      return ((TopicAuthorizationException) failure).unauthorizedTopics().stream().findFirst();
    }
    Matcher found = TOPIC.matcher(String.valueOf(failure.getMessage()));
    return found.find()
        ? Optional.of(found.group(1) == null ? found.group(2) : found.group(1))
        : Optional.empty();
  }

  private static boolean isMissing(String topic, Properties properties) {
    properties.put(AdminClientConfig.REQUEST_TIMEOUT_MS_CONFIG, ADMIN_TIMEOUT_MS);
    properties.put(AdminClientConfig.DEFAULT_API_TIMEOUT_MS_CONFIG, ADMIN_TIMEOUT_MS);
    try (Admin admin = Admin.create(properties)) {
      admin.describeTopics(List.of(topic)).allTopicNames().get();
      return false;
    } catch (ExecutionException e) {
      return e.getCause() instanceof UnknownTopicOrPartitionException;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }
}
