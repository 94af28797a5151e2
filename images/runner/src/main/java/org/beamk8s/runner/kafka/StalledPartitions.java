package org.beamk8s.runner.kafka;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.common.TopicPartition;

/**
 * For how long nothing was read of partitions that have a backlog, or of which no broker has said
 * yet that they have none. Written by the reader, who may be held up by the next step for long;
 * shown by the threads that report metrics.
 */
final class StalledPartitions {
  private final Map<TopicPartition, Long> since = new ConcurrentHashMap<>();

  /** It is wanted and may have records; nothing changes if that was known. */
  void behind(TopicPartition partition, long nowMs) {
    since.putIfAbsent(partition, nowMs);
  }

  /** Records of it were read; that it has no more is another matter. */
  void read(TopicPartition partition, long nowMs) {
    since.computeIfPresent(partition, (key, before) -> nowMs);
  }

  /** It has no records beyond those read, or none that are wanted. */
  void caughtUp(TopicPartition partition) {
    since.remove(partition);
  }

  /** Of the partition that waits longest; 0: none waits. */
  long seconds(long nowMs) {
    return since.values().stream().mapToLong(each -> (nowMs - each) / 1000).max().orElse(0);
  }
}
