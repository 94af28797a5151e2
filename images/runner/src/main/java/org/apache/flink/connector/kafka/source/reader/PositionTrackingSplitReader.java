package org.apache.flink.connector.kafka.source.reader;

import java.io.IOException;
import java.lang.reflect.Field;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Properties;
import java.util.Set;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.connector.base.source.reader.RecordsBySplits;
import org.apache.flink.connector.base.source.reader.RecordsWithSplitIds;
import org.apache.flink.connector.base.source.reader.SourceReaderOptions;
import org.apache.flink.connector.base.source.reader.splitreader.SplitsChange;
import org.apache.flink.connector.kafka.source.metrics.KafkaSourceReaderMetrics;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.LogTruncationException;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetCommitCallback;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.consumer.internals.SubscriptionState;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.WakeupException;
import org.beamk8s.runner.kafka.FetchLog;
import org.beamk8s.runner.kafka.FetchLog.Position;
import org.beamk8s.runner.kafka.ReadFailure;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The connector's reader, that also tells with each batch where every partition stands after it.
 *
 * <p>The positions travel with the batch and are handed over when its last record was emitted
 * ({@link RecordsWithSplitIds#recycle}). So whoever hears them knows that all before them was
 * emitted, whatever the two threads and the queue between them do.
 *
 * <p>A partition's end is what the consumer learnt from its fetches (no request is made for it),
 * and before the first fetch what one request at the assignment answered. But a consumer does not
 * tell that fetches are no longer answered. So a partition that seems to be read up is asked for
 * once more when the log wants to know, and where no answer comes its end is not known.
 *
 * <p>After an assignment one batch without records is delivered at once: {@code poll} would wait up
 * to 10 s for records before anyone learnt that the new partitions are empty.
 *
 * <p>In the connector's package for the sake of {@link #consumer()}.
 */
public final class PositionTrackingSplitReader extends KafkaPartitionSplitReader {
  /** With time to connect: empty partitions are held back until there is an answer. */
  private static final Duration ASSIGNMENT_TIMEOUT = Duration.ofSeconds(10);

  /** Meanwhile no partition of this reader is read on. */
  private static final Duration ANSWER_TIMEOUT = Duration.ofSeconds(1);

  /** Batches that the task may have: one of its own, the others wait in its queue. */
  private static final int MOST_AHEAD =
      1 + SourceReaderOptions.ELEMENT_QUEUE_CAPACITY.defaultValue();

  /** How old what is known of the ends may be where the task has no room for another batch. */
  private static final long MOST_AGE_OF_ENDS_MS = 2000;

  /** For the last offsets of a bounded read. */
  static final Duration COMMIT_TIMEOUT = Duration.ofSeconds(30);

  /** How soon it is asked again where the answer was none, or a backlog that no fetch brings. */
  private static final long ASK_AGAIN_MS = 10_000;

  private static final Logger LOG = LoggerFactory.getLogger(PositionTrackingSplitReader.class);

  private final FetchLog log;
  private final boolean goesOnAfterLoss;

  /** A consumer of committed records tells of these only; its fetches tell of others, too. */
  private final SubscriptionState subscriptions;

  /** Where a bounded read ends: what lies beyond is no backlog. */
  private final Map<TopicPartition, Long> stops = new HashMap<>();

  /** What the broker answered, or did not, and where the reader stood then and still stands. */
  private final Map<TopicPartition, Position> answers = new HashMap<>();

  /** Where partitions ended when they were last asked for all: fetches may be older than that. */
  private Map<TopicPartition, Long> ends = Map.of();

  private long endsAt = System.nanoTime();

  /** Records that were deleted before they were read, since the last batch. */
  private final Map<TopicPartition, Long> lost = new HashMap<>();

  private long askedAt;
  private boolean announceAssignment;

  /**
   * {@code properties} are of a consumer that does not reset offsets itself; {@code
   * goesOnAfterLoss} is whether this reader does, or fails.
   */
  public PositionTrackingSplitReader(
      Properties properties,
      SourceReaderContext context,
      KafkaSourceReaderMetrics metrics,
      FetchLog log,
      boolean goesOnAfterLoss) {
    super(properties, context, metrics);
    this.log = log;
    this.goesOnAfterLoss = goesOnAfterLoss;
    subscriptions = subscriptions(consumer());
    log.onQuestion(this::wakeUp);
  }

  private static SubscriptionState subscriptions(KafkaConsumer<?, ?> consumer) {
    try {
      Field delegate = KafkaConsumer.class.getDeclaredField("delegate");
      delegate.setAccessible(true);
      Object client = delegate.get(consumer);
      Field subscriptions = client.getClass().getDeclaredField("subscriptions");
      subscriptions.setAccessible(true);
      return (SubscriptionState) subscriptions.get(client);
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException("another version of Kafka's client than this is made for", e);
    }
  }

  @Override
  public void handleSplitsChanges(SplitsChange<KafkaPartitionSplit> change) {
    super.handleSplitsChanges(change);
    for (KafkaPartitionSplit split : change.splits()) {
      split.getStoppingOffset().ifPresent(stop -> stops.put(split.getTopicPartition(), stop));
    }
    Map<TopicPartition, Position> positions = positions();
    positions
        .keySet()
        .retainAll(
            change.splits().stream()
                .map(KafkaPartitionSplit::getTopicPartition)
                .collect(Collectors.toSet()));
    ask(positions, ASSIGNMENT_TIMEOUT);
    announceAssignment = true;
  }

  /**
   * A consumer sends what it is to commit when it polls next. One without partitions is polled no
   * more, so there the answer is waited for.
   */
  @Override
  public void notifyCheckpointComplete(
      Map<TopicPartition, OffsetAndMetadata> offsets, OffsetCommitCallback callback) {
    if (!consumer().assignment().isEmpty()) {
      super.notifyCheckpointComplete(offsets, callback);
      return;
    }
    Exception failure = null;
    try {
      inSpiteOfWakeup(
          () -> {
            consumer().commitSync(offsets, COMMIT_TIMEOUT);
            return null;
          });
    } catch (KafkaException e) {
      failure = e;
    }
    callback.onComplete(offsets, failure);
  }

  private void ask(Map<TopicPartition, Position> positions, Duration timeout) {
    Map<TopicPartition, Long> ends;
    try {
      ends = inSpiteOfWakeup(() -> consumer().endOffsets(positions.keySet(), timeout));
    } catch (TimeoutException | WakeupException e) {
      LOG.warn(
          "The watermark waits for {}: no answer within {} whether they have records.",
          positions.keySet(),
          timeout);
      ends = Map.of();
    }
    for (Map.Entry<TopicPartition, Position> asked : positions.entrySet()) {
      long end = ends.getOrDefault(asked.getKey(), Position.END_UNKNOWN);
      answers.put(asked.getKey(), position(asked.getKey(), asked.getValue().next, end));
    }
    askedAt = System.nanoTime();
  }

  private static <T> T inSpiteOfWakeup(Supplier<T> request) {
    try {
      return request.get();
    } catch (WakeupException e) {
      return request.get(); // it was meant for an earlier poll
    }
  }

  @Override
  public RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> fetch() throws IOException {
    try {
      return fetchWithPositions();
    } catch (LogTruncationException e) {
      throw ReadFailure.cut(e); // also of a position, after records were polled
    }
  }

  private RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> fetchWithPositions()
      throws IOException {
    RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> records;
    if (announceAssignment) {
      announceAssignment = false;
      records = none();
    } else {
      awaitRoom();
      records = fetchOrPass();
    }
    Map<TopicPartition, Position> positions = positions();
    answers.entrySet().removeIf(e -> !isOf(e.getValue(), positions.get(e.getKey())));
    boolean ask = log.takeQuestion() || isDoubtful();
    if (ask) {
      Map<TopicPartition, Position> quiet = new HashMap<>(positions);
      quiet
          .entrySet()
          .removeIf(e -> !e.getValue().isCaughtUp() && !answers.containsKey(e.getKey()));
      ask(quiet, ANSWER_TIMEOUT);
    }
    positions.replaceAll(
        (partition, position) -> position.with(answers.getOrDefault(partition, position)));
    FetchLog.Entry entry = log.fetched(positions, ask, Map.copyOf(lost));
    lost.clear();
    return new Batch(records, entry, log);
  }

  /**
   * Flink would let another batch be polled and wait with it, for as long as the task's step takes,
   * and nobody would know meanwhile what is written.
   */
  private void awaitRoom() {
    KafkaConsumer<?, ?> consumer = consumer();
    while (!log.awaitRoom(MOST_AHEAD, endsAt + MOST_AGE_OF_ENDS_MS * 1_000_000)) {
      try {
        ends = consumer.endOffsets(consumer.assignment(), ANSWER_TIMEOUT);
        log.ended(positions());
      } catch (TimeoutException e) {
        // What was heard last is the best that is known.
      } catch (WakeupException e) {
        consumer.wakeup(); // meant for the next poll
        return;
      }
      endsAt = System.nanoTime();
    }
  }

  @Override
  public void wakeUp() {
    super.wakeUp();
    log.wakeUp();
  }

  /** A reader that moved on was answered a fetch, which tells the end as well. */
  private static boolean isOf(Position answer, Position position) {
    return position != null && position.next == answer.next;
  }

  private boolean isDoubtful() {
    return System.nanoTime() - askedAt >= ASK_AGAIN_MS * 1_000_000
        && answers.values().stream().anyMatch(answer -> !answer.isCaughtUp());
  }

  private static RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> none() {
    return new RecordsBySplits<>(Collections.emptyMap(), Collections.emptySet());
  }

  /**
   * What retention deleted before it was read is lost, what it left is not: the oldest record left
   * is the next. The consumer's own reset would do so without a word, and would do it where a topic
   * was made again, too, whose records have other offsets.
   */
  private RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>> fetchOrPass() throws IOException {
    try {
      return super.fetch();
    } catch (LogTruncationException e) {
      throw e;
    } catch (OffsetOutOfRangeException e) {
      pass(e.offsetOutOfRangePartitions());
      return none();
    }
  }

  private void pass(Map<TopicPartition, Long> wanted) throws ReadFailure {
    Map<TopicPartition, Long> first =
        inSpiteOfWakeup(() -> consumer().beginningOffsets(wanted.keySet()));
    Map<TopicPartition, Long> end = inSpiteOfWakeup(() -> consumer().endOffsets(wanted.keySet()));
    for (Map.Entry<TopicPartition, Long> each : wanted.entrySet()) {
      TopicPartition partition = each.getKey();
      long next = each.getValue();
      long oldest = first.get(partition);
      if (next > end.get(partition)) {
        throw ReadFailure.cut(partition, next, end.get(partition));
      }
      if (next < oldest) {
        if (!goesOnAfterLoss) {
          throw ReadFailure.deleted(partition, next, oldest);
        }
        LOG.warn(
            "{}: the records from offset {} on were deleted before they were read. The oldest one"
                + " left is the next, at offset {}.",
            partition,
            next,
            oldest);
        consumer().seek(partition, oldest);
        lost.merge(
            partition,
            Math.min(oldest, stops.getOrDefault(partition, Long.MAX_VALUE)) - next,
            Long::sum);
      } // else the broker has it after all, as a lagging replica does: the next fetch asks again
    }
  }

  private Map<TopicPartition, Position> positions() {
    KafkaConsumer<?, ?> consumer = consumer();
    Map<TopicPartition, Position> positions = new HashMap<>();
    for (TopicPartition partition : consumer.assignment()) {
      try {
        long next = consumer.position(partition, Duration.ZERO);
        positions.put(partition, position(partition, next, end(partition, next)));
      } catch (TimeoutException e) {
        // The position is being reset: the partition is left out, that is, nothing is known of it.
      } catch (WakeupException e) {
        consumer.wakeup(); // meant for the next poll
      }
    }
    return positions;
  }

  private Position position(TopicPartition partition, long next, long end) {
    Long written = subscriptions.partitionLag(partition, IsolationLevel.READ_UNCOMMITTED);
    return new Position(
        next,
        Math.min(end, stops.getOrDefault(partition, Long.MAX_VALUE)),
        written != null && written > 0);
  }

  private long end(TopicPartition partition, long position) {
    OptionalLong lag = consumer().currentLag(partition);
    return lag.isPresent()
        ? Math.max(position + lag.getAsLong(), ends.getOrDefault(partition, 0L))
        : Position.END_UNKNOWN;
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
