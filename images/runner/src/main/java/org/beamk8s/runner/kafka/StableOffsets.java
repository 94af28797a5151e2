package org.beamk8s.runner.kafka;

import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.util.FlinkRuntimeException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;

/**
 * Other offsets, with the ends that a consumer of committed transactions sees: a partition ends
 * before the first record of an open transaction. The connector's enumerator knows only the end of
 * all there is, and a read up to that one waits for the transaction to end.
 *
 * <p>Holds resolved properties.
 */
final class StableOffsets implements OffsetsInitializer {
  private static final long serialVersionUID = 1L;

  private final OffsetsInitializer offsets;
  private final Properties properties;

  StableOffsets(OffsetsInitializer offsets, Properties properties) {
    this.offsets = offsets;
    this.properties = properties;
  }

  @Override
  public Map<TopicPartition, Long> getPartitionOffsets(
      Collection<TopicPartition> partitions, PartitionOffsetsRetriever broker) {
    return offsets.getPartitionOffsets(partitions, new Stable(broker));
  }

  @Override
  public OffsetResetStrategy getAutoOffsetResetStrategy() {
    return offsets.getAutoOffsetResetStrategy();
  }

  private final class Stable implements PartitionOffsetsRetriever {
    private final PartitionOffsetsRetriever broker;

    Stable(PartitionOffsetsRetriever broker) {
      this.broker = broker;
    }

    @Override
    public Map<TopicPartition, Long> committedOffsets(Collection<TopicPartition> partitions) {
      return broker.committedOffsets(partitions);
    }

    @Override
    public Map<TopicPartition, Long> beginningOffsets(Collection<TopicPartition> partitions) {
      return broker.beginningOffsets(partitions);
    }

    @Override
    public Map<TopicPartition, Long> endOffsets(Collection<TopicPartition> partitions) {
      Map<TopicPartition, Long> found = new HashMap<>();
      ask(partitions, partition -> OffsetSpec.latest())
          .forEach((partition, end) -> found.put(partition, end.offset()));
      return found;
    }

    @Override
    public Map<TopicPartition, OffsetAndTimestamp> offsetsForTimes(
        Map<TopicPartition, Long> times) {
      Map<TopicPartition, OffsetAndTimestamp> found = new HashMap<>();
      ask(times.keySet(), partition -> OffsetSpec.forTimestamp(times.get(partition)))
          .forEach(
              (partition, at) -> {
                if (at.offset() >= 0) { // else all its records are older
                  found.put(
                      partition, new OffsetAndTimestamp(at.offset(), at.timestamp(), at.leaderEpoch()));
                }
              });
      return found;
    }

    private Map<TopicPartition, ListOffsetsResultInfo> ask(
        Collection<TopicPartition> partitions, Function<TopicPartition, OffsetSpec> spec) {
      try (Admin admin = Admin.create(properties)) {
        return admin
            .listOffsets(
                partitions.stream().collect(Collectors.toMap(Function.identity(), spec)),
                new ListOffsetsOptions(IsolationLevel.READ_COMMITTED))
            .all()
            .get();
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new FlinkRuntimeException(e);
      } catch (ExecutionException e) {
        throw new FlinkRuntimeException("Kafka does not tell where committed records end.", e);
      }
    }
  }
}
