package org.beamk8s.runner.kafka;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.util.Set;
import org.apache.flink.runtime.throwable.ThrowableClassifier;
import org.apache.flink.runtime.throwable.ThrowableType;
import org.apache.flink.util.FlinkRuntimeException;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.InvalidRecordException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.NotEnoughReplicasException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.SaslAuthenticationException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicAuthorizationException;
import org.junit.Test;

public class WriteFailureTest {
  /** As KafkaWriter wraps what its producer says of a record for the topic. */
  private static String said(Exception exception, String topic, int partition) {
    RecordMetadata metadata =
        new RecordMetadata(new TopicPartition(topic, partition), -1, -1, -1, -1, -1);
    String message = String.format("Failed to send data to Kafka %s with %s ", metadata, "producer");
    Exception failure =
        new IOException("One or more", new FlinkRuntimeException(message, exception));
    return WriteFailure.of(failure, "default", "gone"::equals)
        .map(Throwable::getMessage)
        .orElse(null);
  }

  @Test
  public void aRefusalForGoodNamesTheTopicAndTheReason() {
    String message = said(new RecordTooLargeException("2 MB is larger"), "a-1", 0);
    assertTrue(message, message.startsWith("WriteToKafka, topic a-1: Kafka refuses"));
    assertTrue(message, message.contains("RecordTooLargeException: 2 MB is larger"));
    assertTrue(message, message.contains("max.message.bytes"));
    message = said(new RecordTooLargeException("x"), "a", -1);
    assertTrue(message, message.startsWith("WriteToKafka, topic a: "));
    message =
        WriteFailure.of(new TopicAuthorizationException(Set.of("secret")), null, topic -> false)
            .orElseThrow()
            .getMessage();
    assertTrue(message, message.startsWith("WriteToKafka, topic secret: "));
    message = said(new InvalidRecordException("null key"), "compacted", 0);
    assertTrue(message, message.contains("null key"));
  }

  @Test
  public void aTopicOrPartitionThatIsNotThereIsFinal() {
    String message = said(new TimeoutException("Topic gone not present in metadata"), "gone", -1);
    assertTrue(message, message.startsWith("WriteToKafka, topic gone: it does not exist"));
    message =
        said(
            new TimeoutException(
                "Partition 9 of topic a with partition count 3 is not present in metadata after 1 ms."),
            "a",
            9);
    assertEquals(
        "WriteToKafka, topic a: a ProducerRecord names partition 9, but the topic has 3.", message);
  }

  @Test
  public void whatMayPassIsTriedAgain() {
    assertNull(said(new TimeoutException("Expiring 3 record(s)"), "there", 0));
    assertNull(said(new NotEnoughReplicasException("x"), "there", 0));
    assertNull(said(new SaslAuthenticationException("the secret is being changed"), "there", 0));
  }

  @Test
  public void flinkDoesNotRestartForIt() {
    Throwable failure =
        WriteFailure.of(new RecordTooLargeException("x"), "a", topic -> false).orElseThrow();
    assertTrue(
        ThrowableClassifier.findThrowableOfThrowableType(
                new RuntimeException(failure), ThrowableType.NonRecoverableError)
            .isPresent());
    assertNull("the launcher shows the innermost cause", failure.getCause());
  }
}
