package org.beamk8s.runner.kafka;

import java.io.Serializable;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.kafka.clients.CommonClientConfigs;
import org.apache.kafka.clients.producer.ProducerConfig;

/**
 * What a Kafka write asks for: the payload of its transform. It is part of the job graph, so it
 * holds the properties with their references unresolved.
 */
public final class KafkaWriteSpec implements Serializable {
  private static final long serialVersionUID = 1L;
  private static final Set<String> FIELDS =
      Set.of(
          "bootstrap_servers",
          "topic",
          "properties",
          "delivery_guarantee",
          "transactional_id_prefix");

  /**
   * A broker's default transaction.max.timeout.ms: the longest that works unasked. Flink's own
   * default of an hour is refused by a broker with default settings.
   */
  private static final String TRANSACTION_TIMEOUT_MS = "900000";

  private final String topic;
  private final TreeMap<String, String> properties;
  private final DeliveryGuarantee guarantee;
  private final String transactionalIdPrefix;

  private KafkaWriteSpec(Json json, String defaultPrefix) {
    topic = json.stringOrNull("topic");
    guarantee = json.oneOf("delivery_guarantee", DeliveryGuarantee.class);
    String prefix = json.stringOrNull("transactional_id_prefix");
    transactionalIdPrefix = prefix == null ? defaultPrefix : prefix;
    properties = json.stringMap("properties");
    properties.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, json.string("bootstrap_servers"));
    properties.putIfAbsent(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, TRANSACTION_TIMEOUT_MS);
    properties.putIfAbsent(
        CommonClientConfigs.METADATA_RECOVERY_STRATEGY_CONFIG, KafkaReadSpec.REBOOTSTRAP);
  }

  /**
   * Reads a payload.
   *
   * @param defaultPrefix begins the transactional ids of a write that was not given a prefix. It
   *     must be no other job's, and the same when this job starts again from a checkpoint: Kafka
   *     then aborts what the older run left open.
   */
  public static KafkaWriteSpec parse(byte[] payload, String defaultPrefix) {
    return new KafkaWriteSpec(Json.parse(payload, FIELDS), defaultPrefix);
  }

  /** Null if every record names its own. */
  public String topic() {
    return topic;
  }

  public DeliveryGuarantee guarantee() {
    return guarantee;
  }

  public String transactionalIdPrefix() {
    return transactionalIdPrefix;
  }

  /** The producer's properties, with references resolved: for the process that opens it only. */
  public Properties resolvedProperties() {
    return PropertyReferences.resolve(properties);
  }
}
