package org.apache.flink.connector.kafka.source.reader;

import java.io.IOException;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Properties;
import java.util.Set;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.connector.base.source.reader.RecordsBySplits;
import org.apache.flink.connector.base.source.reader.RecordsWithSplitIds;
import org.apache.flink.connector.base.source.reader.splitreader.SplitsChange;
import org.apache.flink.connector.kafka.source.metrics.KafkaSourceReaderMetrics;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.WakeupException;
import org.beamk8s.runner.kafka.FetchLog;
import org.beamk8s.runner.kafka.FetchLog.Position;

/**
 * The connector's reader, that also tells with each batch where every partition stands after it.
 *
 * <p>The positions travel with the batch and are handed over when its last record was emitted
 * ({@link RecordsWithSplitIds#recycle}). So whoever hears them knows that all before them was
 * emitted, whatever the two threads and the queue between them do.
 *
 * <p>A partition's end is what the consumer learnt from its fetches (no request is made for it),
 * and before the first fetch what one request at the assignment answered. After an assignment one
 * batch without records is delivered at once: {@code poll} would wait up to 10 s for records before
 * anyone learnt that the new partitions are empty.
 *
 * <p>In the connector's package for the sake of {@link #consumer()}.
 */
public final class PositionTrackingSplitReader extends KafkaPartitionSplitReader {
  private final FetchLog log;
  private final Map<TopicPartition, Long> endAtAssignment = new HashMap<>();
  private boolean announceAssignment;

  public PositionTrackingSplitReader(
      Properties properties,
      SourceReaderContext context,
      KafkaSourceReaderMetrics metrics,
      FetchLog log) {
    super(properties, context, metrics);
    this.log = log;
  }

  @Override
  public void handleSplitsChanges(SplitsChange<KafkaPartitionSplit> change) {
    super.handleSplitsChanges(change);
    Set<TopicPartition> added = new HashSet<>();
    change.splits().forEach(split -> added.add(split.getTopicPartition()));
    added.retainAll(consumer().assignment()); // an empty bounded split is dropped at once
    endAtAssignment.putAll(endOffsets(added));
    announceAssignment = true;
  }

  /** Not known, on a time-out, is an answer too: then the first fetch tells. */
  private Map<TopicPartition, Long> endOffsets(Set<TopicPartition> partitions) {
    try {
      return consumer().endOffsets(partitions);
    } catch (WakeupException e) {
      return consumer().endOffsets(partitions); // a wakeup meant for an earlier poll
    } catch (TimeoutException e) {
      return Map.of();
    }
  }

  @Override
  public RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> fetch() throws IOException {
    RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> records;
    if (announceAssignment) {
      announceAssignment = false;
      records = new RecordsBySplits<>(Collections.emptyMap(), Collections.emptySet());
    } else {
      records = super.fetch();
    }
    return new Batch(records, log.fetched(positions()), log);
  }

  private Map<TopicPartition, Position> positions() {
    KafkaConsumer<?, ?> consumer = consumer();
    Map<TopicPartition, Position> positions = new HashMap<>();
    for (TopicPartition partition : consumer.assignment()) {
      try {
        long position = consumer.position(partition, Duration.ZERO);
        positions.put(partition, new Position(position, end(partition, position)));
      } catch (TimeoutException e) {
        // The position is being reset: the partition is left out, that is, nothing is known of it.
      } catch (WakeupException e) {
        consumer.wakeup(); // meant for the next poll
      }
    }
    return positions;
  }

  private long end(TopicPartition partition, long position) {
    OptionalLong lag = consumer().currentLag(partition);
    if (lag.isPresent()) {
      endAtAssignment.remove(partition);
      return position + lag.getAsLong();
    }
    return endAtAssignment.getOrDefault(partition, Position.END_UNKNOWN);
  }

  private static final class Batch implements RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> {
    private final RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> records;
    private final FetchLog.Entry entry;
    private final FetchLog log;

    Batch(
        RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> records,
        FetchLog.Entry entry,
        FetchLog log) {
      this.records = records;
      this.entry = entry;
      this.log = log;
    }

    @Override
    public String nextSplit() {
      return records.nextSplit();
    }

    @Override
    public ConsumerRecord<byte[], byte[]> nextRecordFromSplit() {
      return records.nextRecordFromSplit();
    }

    @Override
    public Set<String> finishedSplits() {
      return records.finishedSplits();
    }

    @Override
    public void recycle() {
      records.recycle();
      log.emitted(entry);
    }
  }
}
