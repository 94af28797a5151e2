package org.beamk8s.runner.kafka;

import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;
import org.apache.kafka.common.TopicPartition;

/** The offsets that the user named, and other ones for partitions that were not. */
final class NamedOffsets implements OffsetsInitializer {
  private static final long serialVersionUID = 1L;

  private final Map<TopicPartition, Long> named;
  private final OffsetsInitializer others;
  private final boolean mustExist;

  /** {@code mustExist}: one beyond its partition's end is an error, and not waited for. */
  NamedOffsets(Map<TopicPartition, Long> named, OffsetsInitializer others, boolean mustExist) {
    this.named = named;
    this.others = others;
    this.mustExist = mustExist;
  }

  @Override
  public Map<TopicPartition, Long> getPartitionOffsets(
      Collection<TopicPartition> partitions, PartitionOffsetsRetriever broker) {
    Map<TopicPartition, Long> offsets = new HashMap<>(named);
    offsets.keySet().retainAll(partitions);
    if (mustExist && !offsets.isEmpty()) {
      // The reader would take it for one that retention deleted, and go to the oldest.
      broker.endOffsets(offsets.keySet()).forEach(this::check);
    }
    Set<TopicPartition> rest = new HashSet<>(partitions);
    rest.removeAll(named.keySet());
    if (!rest.isEmpty()) {
      offsets.putAll(others.getPartitionOffsets(rest, broker));
    }
    return offsets;
  }

  private void check(TopicPartition partition, long end) {
    if (named.get(partition) > end) {
      throw new IllegalArgumentException(
          String.format(
              "start_offsets has %d for %s, which ends at %d",
              named.get(partition), partition, end));
    }
  }

  @Override
  public OffsetResetStrategy getAutoOffsetResetStrategy() {
    return others.getAutoOffsetResetStrategy();
  }
}
