package org.beamk8s.runner.kafka;

import java.nio.charset.StandardCharsets;
import java.util.Optional;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;

/** Makes consumer records. */
final class Records {
  private Records() {}

  static ConsumerRecord<byte[], byte[]> record(TopicPartition partition, long offset, long time) {
    return record(partition, offset, time, TimestampType.CREATE_TIME, "k", "v" + offset);
  }

  static ConsumerRecord<byte[], byte[]> record(
      TopicPartition partition,
      long offset,
      long time,
      TimestampType type,
      String key,
      String value) {
    return new ConsumerRecord<>(
        partition.topic(),
        partition.partition(),
        offset,
        time,
        type,
        0,
        0,
        bytes(key),
        bytes(value),
        new RecordHeaders(),
        Optional.empty());
  }

  static byte[] bytes(String value) {
    return value == null ? null : value.getBytes(StandardCharsets.UTF_8);
  }

  static byte[] readSpec(String changes) {
    String defaults =
        "'bootstrap_servers': 'b:1', 'topics': ['t'], 'group_id': 'g', 'properties': {},"
            + "'start': 'earliest', 'stop': null, 'timestamp_policy': 'create_time',"
            + "'max_out_of_orderness_ms': 0, 'idle_timeout_ms': 100, 'commit_offsets': true,"
            + "'with_metadata': false, 'frame_records': 4";
    // of a name that occurs twice, JSON parsers take the last
    return bytes(("{" + defaults + (changes.isEmpty() ? "" : "," + changes) + "}").replace('\'', '"'));
  }
}
