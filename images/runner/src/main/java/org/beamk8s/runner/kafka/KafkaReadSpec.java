package org.beamk8s.runner.kafka;

import java.io.Serializable;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.KafkaSourceBuilder;
import org.apache.flink.connector.kafka.source.KafkaSourceOptions;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.kafka.clients.CommonClientConfigs;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * What a Kafka read asks for: the payload of its transform. It is part of the job graph, so it holds
 * the properties with their references unresolved.
 */
public final class KafkaReadSpec implements Serializable {
  private static final long serialVersionUID = 1L;
  private static final Set<String> FIELDS =
      Set.of(
          "bootstrap_servers",
          "topics",
          "topic_pattern",
          "group_id",
          "properties",
          "start",
          "start_offsets",
          "stop",
          "stop_offsets",
          "timestamp_policy",
          "max_out_of_orderness_ms",
          "idle_timeout_ms",
          "commit_offsets",
          "with_metadata",
          "frame_records",
          "max_parallelism");

  /** How soon a partition added to a topic is read; Flink's own default is 5 minutes. */
  private static final String DISCOVERY_INTERVAL_MS = "60000";

  /**
   * Where all brokers that a client knows are gone, it asks bootstrap.servers again. A client that
   * has looked while others were away knows those few only, for up to metadata.max.age.ms.
   */
  static final String REBOOTSTRAP = "rebootstrap";

  private static final String START_COMMITTED = "committed";
  private static final String LATEST = "latest";
  private static final String TIMESTAMP = "timestamp";
  private static final String TIMESTAMP_MS = "timestamp_ms";

  private final List<String> topics;

  /** Null if the topics are named. */
  private final Pattern topicPattern;

  private final TreeMap<String, String> properties;
  private final String start;
  private final long startTimestamp;
  private final Map<TopicPartition, Long> startOffsets;
  private final String stop;
  private final long stopTimestamp;
  private final Map<TopicPartition, Long> stopOffsets;
  private final TimestampPolicy timestampPolicy;
  private final long maxOutOfOrdernessMs;
  private final long idleTimeoutMs;
  private final boolean withMetadata;
  private final int frameRecords;
  private final int maxParallelism;

  private KafkaReadSpec(Json json) {
    String pattern = json.stringOrNull("topic_pattern");
    topicPattern = pattern == null ? null : Pattern.compile(pattern);
    topics = pattern == null ? json.strings("topics") : List.of();
    start = json.isNumberIn("start", TIMESTAMP_MS) ? TIMESTAMP : json.string("start");
    startTimestamp = json.node("start").path(TIMESTAMP_MS).asLong();
    startOffsets = json.offsets("start_offsets");
    stop = json.isNumberIn("stop", TIMESTAMP_MS) ? TIMESTAMP : json.stringOrNull("stop");
    stopTimestamp = json.node("stop").path(TIMESTAMP_MS).asLong();
    stopOffsets = json.offsets("stop_offsets");
    timestampPolicy = json.oneOf("timestamp_policy", TimestampPolicy.class);
    maxOutOfOrdernessMs = json.nonNegative("max_out_of_orderness_ms");
    idleTimeoutMs = json.nonNegative("idle_timeout_ms");
    withMetadata = json.bool("with_metadata");
    frameRecords = json.positive("frame_records");
    maxParallelism = json.isAbsent("max_parallelism") ? 0 : json.positive("max_parallelism");

    String group = json.stringOrNull("group_id");
    properties = json.stringMap("properties");
    properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, json.string("bootstrap_servers"));
    if (group != null) {
      properties.put(ConsumerConfig.GROUP_ID_CONFIG, group);
    }
    // Offsets are committed with a checkpoint or not at all: the consumer's own timer would commit
    // records that are not yet in any checkpoint.
    properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
    properties.put(
        KafkaSourceOptions.COMMIT_OFFSETS_ON_CHECKPOINT.key(),
        Boolean.toString(json.bool("commit_offsets") && hasGroup()));
    properties.putIfAbsent(CommonClientConfigs.METADATA_RECOVERY_STRATEGY_CONFIG, REBOOTSTRAP);
    properties.putIfAbsent(
        KafkaSourceOptions.PARTITION_DISCOVERY_INTERVAL_MS.key(), DISCOVERY_INTERVAL_MS);
    properties.put(
        ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class.getName());
    properties.put(
        ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class.getName());
    startingOffsets(); // checks start and auto.offset.reset before the job is submitted
    if (bounded()) {
      stoppingOffsets();
    }
    resetStrategy();
  }

  public static KafkaReadSpec parse(byte[] payload) {
    return new KafkaReadSpec(Json.parse(payload, FIELDS));
  }

  boolean bounded() {
    return stop != null;
  }

  TimestampPolicy timestampPolicy() {
    return timestampPolicy;
  }

  long maxOutOfOrdernessMs() {
    return maxOutOfOrdernessMs;
  }

  long idleTimeoutMs() {
    return idleTimeoutMs;
  }

  boolean withMetadata() {
    return withMetadata;
  }

  int frameRecords() {
    return frameRecords;
  }

  /** The most subtasks that have something to read, or 0 if that is not known. */
  public int maxParallelism() {
    return maxParallelism;
  }

  /** The consumer's properties, with references resolved: for the process that opens it only. */
  Properties resolvedProperties(String name) {
    Properties resolved = PropertyReferences.resolve(properties);
    // Every split has an offset to start at, so a reset is needed only where that one is gone: the
    // reader's affair, see PositionTrackingSplitReader. "latest" would skip all that is still there.
    resolved.setProperty(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
    resolved.putIfAbsent(
        KafkaSourceOptions.CLIENT_ID_PREFIX.key(),
        resolved.getProperty(ConsumerConfig.GROUP_ID_CONFIG, name));
    return resolved;
  }

  /** Whether a record that is gone before it was read does not end the job. */
  boolean goesOnAfterLoss() {
    return resetStrategy() != OffsetResetStrategy.NONE;
  }

  /** Flink's source for the same topics, which lends its enumerator. Holds resolved properties. */
  KafkaSource<byte[]> source(String name) {
    Properties resolved = resolvedProperties(name);
    KafkaSourceBuilder<byte[]> builder =
        KafkaSource.<byte[]>builder()
            .setProperties(resolved)
            .setStartingOffsets(asSeen(startingOffsets(), resolved))
            .setDeserializer(
                KafkaRecordDeserializationSchema.valueOnly(ByteArrayDeserializer.class));
    if (topicPattern == null) {
      builder.setTopics(topics);
    } else {
      builder.setTopicPattern(topicPattern);
    }
    return (bounded() ? builder.setBounded(asSeen(stoppingOffsets(), resolved)) : builder).build();
  }

  private static OffsetsInitializer asSeen(OffsetsInitializer offsets, Properties resolved) {
    boolean committedOnly =
        "read_committed".equals(resolved.getProperty(ConsumerConfig.ISOLATION_LEVEL_CONFIG));
    return committedOnly ? new StableOffsets(offsets, resolved) : offsets;
  }

  private boolean hasGroup() {
    return properties.containsKey(ConsumerConfig.GROUP_ID_CONFIG);
  }

  /**
   * All but "earliest" become offsets before a split is assigned, and so are part of the first
   * checkpoint: a start that the reader works out, as it does for Flink's own {@code
   * committedOffsets}, is worked out anew by each restart until the partition's first record, and
   * "latest" then skips what came meanwhile.
   */
  OffsetsInitializer startingOffsets() {
    return named(startOffsets, unnamedStart(), true);
  }

  OffsetsInitializer stoppingOffsets() {
    return named(stopOffsets, unnamedStop(), false);
  }

  private static OffsetsInitializer named(
      Map<TopicPartition, Long> named, OffsetsInitializer others, boolean mustExist) {
    return named.isEmpty() ? others : new NamedOffsets(named, others, mustExist);
  }

  private OffsetsInitializer unnamedStop() {
    switch (stop) {
      case LATEST:
        return OffsetsInitializer.latest();
      case TIMESTAMP:
        return OffsetsInitializer.timestamp(stopTimestamp);
      default:
        throw new IllegalArgumentException("stop: unknown value " + stop);
    }
  }

  private OffsetsInitializer unnamedStart() {
    switch (start) {
      case "earliest":
        return OffsetsInitializer.earliest();
      case LATEST:
        return OffsetsInitializer.latest();
      case TIMESTAMP:
        return OffsetsInitializer.timestamp(startTimestamp);
      case START_COMMITTED:
        return committedOffsets();
      default:
        throw new IllegalArgumentException("start: unknown value " + start);
    }
  }

  /** Without a group nothing is committed, so auto.offset.reset alone decides. */
  private OffsetsInitializer committedOffsets() {
    OffsetResetStrategy strategy = resetStrategy();
    if (hasGroup()) {
      return OffsetsInitializer.offsets(Map.of(), strategy); // committed ones, else by strategy
    }
    switch (strategy) {
      case EARLIEST:
        return OffsetsInitializer.earliest();
      case LATEST:
        return OffsetsInitializer.latest();
      default:
        throw new IllegalArgumentException("start=committed needs a group_id or auto.offset.reset");
    }
  }

  private OffsetResetStrategy resetStrategy() {
    String reset = properties.getOrDefault(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, LATEST);
    return OffsetResetStrategy.valueOf(reset.toUpperCase(Locale.ROOT));
  }
}
