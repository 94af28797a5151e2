package org.beamk8s.runner.kafka;

import static org.beamk8s.runner.kafka.Records.bytes;
import static org.beamk8s.runner.kafka.Records.readSpec;
import static org.beamk8s.runner.kafka.Records.record;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer.PartitionOffsetsRetriever;
import org.apache.flink.util.InstantiationUtil;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.record.TimestampType;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class SpecsTest {
  private static final TopicPartition A = new TopicPartition("t", 0);
  private static final TopicPartition B = new TopicPartition("t", 1);

  @Rule public final TemporaryFolder folder = new TemporaryFolder();

  @Test
  public void offsetsAreNeverCommittedByTheConsumersTimer() {
    Properties properties = resolved("'properties': {'enable.auto.commit': 'true'}");
    assertEquals("false", properties.getProperty("enable.auto.commit"));
    assertEquals("true", properties.getProperty("commit.offsets.on.checkpoint"));
    assertEquals("60000", properties.getProperty("partition.discovery.interval.ms"));
  }

  @Test
  public void withoutAGroupNothingIsCommitted() {
    Properties properties = resolved("'group_id': null, 'start': 'committed'");
    assertEquals("false", properties.getProperty("commit.offsets.on.checkpoint"));
    assertNull(properties.getProperty("group.id"));
  }

  /** Where retention overtook the read, "latest" would skip what is left. */
  @Test
  public void noResetOfTheConsumerSkipsRecords() {
    for (String start : new String[] {"'earliest'", "'latest'", "'committed'", "{'timestamp_ms': 5}"}) {
      String changes = "'start': " + start + ", 'properties': {'auto.offset.reset': '%s'}";
      for (String reset : new String[] {"earliest", "latest", "none"}) {
        String given = String.format(changes, reset);
        assertEquals("none", resolved(given).getProperty("auto.offset.reset"));
        assertEquals(
            !reset.equals("none"), KafkaReadSpec.parse(readSpec(given)).goesOnAfterLoss());
      }
    }
    assertTrue(KafkaReadSpec.parse(readSpec("")).goesOnAfterLoss());
  }

  /** What Flink leaves to the reader, a marker below 0, is worked out anew by every restart. */
  @Test
  public void committedIsAnOffsetBeforeAnythingIsRead() {
    String reset = "'start': 'committed', 'properties': {'auto.offset.reset': '%s'}";
    assertEquals(Map.of(A, 5L, B, 9L), startingOffsets("'start': 'committed'"));
    assertEquals(Map.of(A, 5L, B, 9L), startingOffsets(String.format(reset, "latest")));
    assertEquals(Map.of(A, 5L, B, 2L), startingOffsets(String.format(reset, "earliest")));
    IllegalStateException error =
        assertThrows(
            IllegalStateException.class, () -> startingOffsets(String.format(reset, "none")));
    assertTrue(error.getMessage(), error.getMessage().contains("[t-1]"));
  }

  @Test
  public void latestIsAnOffsetBeforeAnythingIsRead() {
    assertEquals(Map.of(A, 9L, B, 9L), startingOffsets("'start': 'latest'"));
    assertEquals(
        Map.of(A, 9L, B, 9L), startingOffsets("'start': 'committed', 'group_id': null"));
  }

  @Test
  public void offsetsOfTheUsersOwnWinWhereTheyAre() {
    assertEquals(Map.of(A, 3L, B, 9L), startingOffsets("'start': 'latest', 'start_offsets': [['t', 0, 3]]"));
    assertEquals(
        Map.of(A, 20L, B, 9L),
        offsets(KafkaReadSpec.parse(readSpec("'stop': 'latest', 'stop_offsets': [['t', 0, 20]]")).stoppingOffsets()));
    IllegalArgumentException error =
        assertThrows(
            IllegalArgumentException.class,
            () -> startingOffsets("'start_offsets': [['t', 0, 10]]"));
    assertTrue(error.getMessage(), error.getMessage().contains("10 for t-0, which ends at 9"));
  }

  @Test
  public void aPatternNeedsNoNames() {
    KafkaReadSpec.parse(readSpec("'topics': [], 'topic_pattern': 'orders-.*'")).source("Read");
    assertThrows(
        IllegalArgumentException.class,
        () -> KafkaReadSpec.parse(readSpec("'topics': [], 'topic_pattern': 'a('")));
  }

  @Test
  public void aTimestampAndAnEndAreUnderstood() {
    assertFalse(KafkaReadSpec.parse(readSpec("'start': {'timestamp_ms': 5}")).bounded());
    assertTrue(KafkaReadSpec.parse(readSpec("'stop': 'latest'")).bounded());
    assertEquals(3, KafkaReadSpec.parse(readSpec("'max_parallelism': 3")).maxParallelism());
  }

  @Test
  public void whatIsNotUnderstoodIsRefused() {
    for (String changes :
        new String[] {
          "'start': 'begin'",
          "'stop': 'never'",
          "'stop_offsets': [['t', 0]]",
          "'timestamp_policy': 'x'",
          "'frame_records': 0",
          "'idle_timeout_ms': -1",
          "'topics': []",
          "'new_field': 1",
          "'start': 'committed', 'group_id': null, 'properties': {'auto.offset.reset': 'none'}"
        }) {
      assertThrows(
          changes,
          IllegalArgumentException.class,
          () -> KafkaReadSpec.parse(readSpec(changes)));
    }
  }

  @Test
  public void referencesAreResolvedInTheWorkerAndNotInTheJobGraph() throws Exception {
    Path file = folder.newFile("secret").toPath();
    Files.writeString(file, "the-secret\n");
    KafkaReadSpec spec =
        KafkaReadSpec.parse(readSpec("'properties': {'sasl.jaas.config': 'file:" + file + "'}"));
    assertEquals("the-secret", spec.resolvedProperties("n").getProperty("sasl.jaas.config"));
    byte[] source = InstantiationUtil.serializeObject(new KafkaFrameSource(spec, "n"));
    String serialized = new String(source, StandardCharsets.ISO_8859_1);
    assertFalse(serialized.contains("the-secret"));
    assertTrue(serialized.contains(file.toString()));
  }

  /** As in Python, where the launcher logs in with the same properties. */
  @Test
  public void aFileWithoutItsLastLineBreakIsTheSecret() throws Exception {
    Path file = folder.newFile("secret").toPath();
    for (String lineBreak : new String[] {"", "\n", "\r\n", "\n\n"}) {
      Files.writeString(file, "first\r\nlast \t" + lineBreak);
      assertEquals(
          "first\r\nlast \t",
          PropertyReferences.resolve(Map.of("p", "file:" + file)).getProperty("p"));
    }
  }

  @Test
  public void environmentReferencesAreResolved() {
    assertEquals(
        "value of X",
        PropertyReferences.resolve(Map.of("p", "env:X"), name -> "value of " + name)
            .getProperty("p"));
    IllegalArgumentException error =
        assertThrows(
            IllegalArgumentException.class,
            () -> PropertyReferences.resolve(Map.of("p", "env:X"), name -> null));
    assertTrue(error.getMessage().contains("p") && error.getMessage().contains("X"));
  }

  @Test
  public void aWriteHasAPrefixOfItsOwnAndATimeoutThatBrokersTake() {
    String spec =
        "{'bootstrap_servers': 'b', 'topic': 't', 'properties': {},"
            + " 'delivery_guarantee': 'exactly_once', 'transactional_id_prefix': %s}";
    KafkaWriteSpec good = writeSpec(String.format(spec, "'x'"));
    assertEquals("900000", good.resolvedProperties().getProperty("transaction.timeout.ms"));
    assertEquals("x", good.transactionalIdPrefix());
    assertEquals("job/Write", writeSpec(String.format(spec, "null")).transactionalIdPrefix());
  }

  @Test
  public void eventTimesFollowThePolicyAndWhatIsNoneIsKnown() {
    assertEquals(9, TimestampPolicy.PROCESSING_TIME.timestamp(record(A, 0, -1), 9));
    assertEquals(5, TimestampPolicy.CREATE_TIME.timestamp(record(A, 0, 5), 9));
    assertTrue(TimestampPolicy.isEventTime(0));
    for (long none : new long[] {-1, Long.MAX_VALUE}) {
      assertFalse(
          TimestampPolicy.isEventTime(
              TimestampPolicy.CREATE_TIME.timestamp(record(A, 0, none), 9)));
    }
    IllegalStateException error =
        assertThrows(
            IllegalStateException.class,
            () -> TimestampPolicy.LOG_APPEND_TIME.timestamp(record(A, 0, 5), 9));
    assertTrue(error.getMessage(), error.getMessage().contains("ReadFromKafka.processing_time_policy"));
    assertEquals(
        5,
        TimestampPolicy.LOG_APPEND_TIME.timestamp(
            record(A, 0, 5, TimestampType.LOG_APPEND_TIME, "k", "v"), 9));
  }

  private static Map<TopicPartition, Long> startingOffsets(String changes) {
    return offsets(KafkaReadSpec.parse(readSpec(changes)).startingOffsets());
  }

  /** Of A with a committed offset and B without one, both with the offsets 2 to 8. */
  private static Map<TopicPartition, Long> offsets(OffsetsInitializer offsets) {
    PartitionOffsetsRetriever broker =
        (PartitionOffsetsRetriever)
            Proxy.newProxyInstance(
                SpecsTest.class.getClassLoader(),
                new Class<?>[] {PartitionOffsetsRetriever.class},
                (proxy, method, arguments) -> {
                  Map<TopicPartition, Long> known =
                      Map.of(
                              "committedOffsets", Map.of(A, 5L),
                              "beginningOffsets", Map.of(A, 2L, B, 2L),
                              "endOffsets", Map.of(A, 9L, B, 9L))
                          .get(method.getName());
                  Map<TopicPartition, Long> asked = new HashMap<>(known);
                  asked.keySet().retainAll((Collection<?>) arguments[0]);
                  return asked;
                });
    return offsets.getPartitionOffsets(Set.of(A, B), broker);
  }

  private static Properties resolved(String changes) {
    return KafkaReadSpec.parse(readSpec(changes)).resolvedProperties("name");
  }

  private static KafkaWriteSpec writeSpec(String json) {
    return KafkaWriteSpec.parse(bytes(json.replace('\'', '"')), "job/Write");
  }
}
