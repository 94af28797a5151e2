package org.beamk8s.runner.kafka;

import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Function;
import java.util.function.ToLongFunction;
import java.util.stream.LongStream;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.SourceEvent;
import org.apache.flink.api.connector.source.SourceOutput;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.util.clock.Clock;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.beamk8s.runner.kafka.AnsweringEnumerator.AllAssignedAnswer;
import org.beamk8s.runner.kafka.AnsweringEnumerator.AllAssignedQuestion;
import org.beamk8s.runner.kafka.FetchLog.Position;
import org.joda.time.Instant;

/**
 * Reads frames: one call of {@link #pollNext} takes what the connector's reader has, up to a full
 * frame, and emits it. Nothing is kept between two calls, so a checkpoint never meets half a frame,
 * frames are full under load, and an idle stream's record waits for nothing.
 *
 * <p><b>Watermarks</b> are emitted here and not by a WatermarkStrategy, because only here it is
 * known which partitions have a backlog (see {@link PartitionWatermarks}). They advance at the
 * boundaries of the connector's batches, with the positions that held at that boundary. So a reader
 * held up by backpressure for a minute does not call a partition idle whose records lie fetched
 * behind others. Where a partition seems idle a batch is asked for, without records if need be, for
 * which the broker was asked too.
 *
 * <p>With {@link TimestampPolicy#PROCESSING_TIME} the watermark is the clock.
 */
final class KafkaFrameReader implements SourceReader<WindowedValue<byte[]>, KafkaPartitionSplit> {
  /** Most partitions of a reader with metrics of their own; transforms/metrics.py has as many. */
  private static final int MOST_WITH_METRICS = 100;

  private final TimestampPolicy policy;
  private final SourceReaderContext context;
  private final SourceReader<ConsumerRecord<byte[], byte[]>, KafkaPartitionSplit> records;
  private final Clock clock;
  private final FetchLog log;
  private final PartitionWatermarks<TopicPartition> watermarks;
  private final ReadFrame frame;
  private final FrameSize size;
  private final Collector collector = new Collector();
  private final WakeUpTimer timer = new WakeUpTimer();

  private Map<TopicPartition, Position> positions = Map.of();
  private final Map<TopicPartition, PartitionBacklog> backlogs = new ConcurrentHashMap<>();
  private final StalledPartitions stalled = new StalledPartitions();
  private final Map<String, TopicPartition> partitions = new HashMap<>();
  private final Set<TopicPartition> finished = new HashSet<>();
  private volatile boolean allAssigned;
  private volatile int assigned;
  private long askedAt = Long.MIN_VALUE / 2;
  private boolean hadPartitions;
  private long readingTime = PartitionWatermarks.NONE;

  /** {@code records} makes the reader of single records, which writes the given log. */
  KafkaFrameReader(
      KafkaReadSpec spec,
      FrameSize size,
      SourceReaderContext context,
      Clock clock,
      Function<FetchLog, SourceReader<ConsumerRecord<byte[], byte[]>, KafkaPartitionSplit>>
          records) {
    this.policy = spec.timestampPolicy();
    this.context = context;
    this.clock = clock;
    this.log = new FetchLog(clock, this::onBatchEmitted);
    this.watermarks = new PartitionWatermarks<>(spec.maxOutOfOrdernessMs(), spec.idleTimeoutMs());
    this.frame = new ReadFrame(spec.withMetadata());
    this.size = size;
    this.records = records.apply(log);
    // Flink tells values of an attempt that has ended as if they were of the one that runs.
    long startedAt = clock.absoluteTimeMillis();
    context.metricGroup().gauge("readerStartedMs", () -> startedAt);
    context.metricGroup().setPendingRecordsGauge(this::pendingRecords);
    context.metricGroup().setPendingBytesGauge(() -> known(PartitionBacklog::bytes).sum());
    context
        .metricGroup()
        .gauge("pendingSeconds", () -> known(PartitionBacklog::seconds).max().orElse(0));
    context
        .metricGroup()
        .gauge("stalledSeconds", () -> stalled.seconds(clock.relativeTimeMillis()));
  }

  @Override
  public void start() {
    records.start();
  }

  @Override
  public InputStatus pollNext(ReaderOutput<WindowedValue<byte[]>> output) throws Exception {
    collector.output = output;
    readingTime = Math.max(readingTime, clock.absoluteTimeMillis());
    InputStatus status;
    do {
      status = records.pollNext(collector);
    } while (!frame.isFull(size.records()) && mayHaveMore(status));

    // The connector says "nothing" after a batch without records even if another one waits.
    boolean more = mayHaveMore(status);
    boolean drained = !more && log.isEmitted();
    if (drained) {
      advance(clock.relativeTimeMillis());
    }
    emitFrame(output, drained);
    emitWatermark(output);
    if (!allAssigned && status != InputStatus.END_OF_INPUT) {
      askIfAllAssigned(clock.relativeTimeMillis());
    }
    return more ? InputStatus.MORE_AVAILABLE : status;
  }

  private void askIfAllAssigned(long now) {
    if (now - askedAt >= WakeUpTimer.INTERVAL_MS) {
      askedAt = now;
      context.sendSourceEventToCoordinator(new AllAssignedQuestion());
    }
  }

  private boolean mayHaveMore(InputStatus status) {
    return status == InputStatus.MORE_AVAILABLE
        || (status == InputStatus.NOTHING_AVAILABLE && records.isAvailable().isDone());
  }

  private void onBatchEmitted(FetchLog.Entry entry) {
    positions = entry.positions;
    for (TopicPartition partition : partitions.values()) {
      Position position = positions.get(partition);
      if (position != null && position.isCaughtUp()) {
        stalled.caughtUp(partition);
      } else {
        stalled.behind(partition, entry.fetchedAt);
      }
      if (position != null && position.isQuiet()) {
        watermarks.caughtUp(partition, position.neverHeldRecord(), entry.fetchedAt);
      } else {
        watermarks.behind(partition);
      }
    }
    entry.lost.forEach(frame::addLost);
    if (entry.confirmed) {
      watermarks.confirmed(entry.fetchedAt);
    }
    advance(entry.fetchedAt);
  }

  private void advance(long now) {
    if (!allAssigned) {
      return; // see AnsweringEnumerator
    }
    watermarks.advance();
    if (policy != TimestampPolicy.PROCESSING_TIME && watermarks.needsConfirmation(now)) {
      log.ask();
    }
  }

  private void emitFrame(ReaderOutput<WindowedValue<byte[]>> output, boolean drained) {
    if (drained || frame.hasRecords()) {
      addChangedBacklogs();
    }
    if (frame.isEmpty()) {
      return;
    }
    long least = frame.leastTimestamp();
    long timestamp =
        least < Long.MAX_VALUE
            ? least
            : Math.max(currentWatermark() + 1, BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis());
    size.emitted(frame.records(), clock.relativeTimeMillis());
    byte[] bytes = frame.take(this::backlog);
    output.markActive(); // before the records: an idle channel's records may count as late
    output.collect(
        WindowedValue.timestampedValueInGlobalWindow(bytes, new Instant(timestamp)), timestamp);
  }

  /** For partitions whose backlog is another one than last told, although no record came. */
  private void addChangedBacklogs() {
    for (TopicPartition partition : partitions.values()) {
      Position position = positions.get(partition);
      if (position == null) {
        continue;
      }
      PartitionBacklog told = backlogs.get(partition);
      if (told == null || told.records() != position.backlog(position.next)) {
        frame.addBacklog(partition);
      }
    }
  }

  private PartitionBacklog backlog(ReadFrame.Segment segment) {
    Position position = positions.get(segment.partition);
    long next = segment.nextOffset();
    long end = Position.END_UNKNOWN;
    if (finished.contains(segment.partition)) {
      next = end = Long.MAX_VALUE; // a bounded read wants nothing beyond its end
    } else if (position != null) {
      // A last record before markers or compacted records: those are no backlog.
      next = Math.max(next, position.next);
      end = position.end;
    }
    if (segment.records() > 0) {
      stalled.read(segment.partition, clock.relativeTimeMillis());
    }
    PartitionBacklog backlog = backlogs.computeIfAbsent(segment.partition, this::newBacklog);
    backlog.add(next, end, segment.records(), segment.bytes(), clock.relativeTimeMillis());
    return backlog;
  }

  private PartitionBacklog newBacklog(TopicPartition partition) {
    PartitionBacklog backlog = new PartitionBacklog(() -> lastEnd(partition));
    if (backlogs.size() < MOST_WITH_METRICS) {
      backlog.register(
          context
              .metricGroup()
              .addGroup("KafkaSourceReader") // the connector's group
              .addGroup("topic", partition.topic())
              .addGroup("partition", Integer.toString(partition.partition())));
    }
    return backlog;
  }

  private long lastEnd(TopicPartition partition) {
    Position fetched = log.lastFetched().get(partition);
    return fetched == null ? Position.END_UNKNOWN : fetched.end;
  }

  /** Of all partitions, those that were fetched but not emitted among them; -1 = not known yet. */
  private long pendingRecords() {
    Map<TopicPartition, Position> fetched = log.lastFetched(); // of what was not emitted yet
    Set<TopicPartition> all = new HashSet<>(fetched.keySet());
    all.addAll(backlogs.keySet());
    long sum = 0;
    for (TopicPartition partition : all) {
      PartitionBacklog told = backlogs.get(partition);
      Position position = fetched.get(partition);
      long left = told == null ? PartitionBacklog.UNKNOWN : told.records();
      if (left == PartitionBacklog.UNKNOWN && position != null) {
        left = position.backlog(position.next);
      }
      if (left == PartitionBacklog.UNKNOWN) {
        return left;
      }
      sum += left;
    }
    return allAssigned && all.size() >= assigned ? sum : PartitionBacklog.UNKNOWN;
  }

  private LongStream known(ToLongFunction<PartitionBacklog> backlog) {
    return backlogs.values().stream().mapToLong(backlog).filter(each -> each >= 0);
  }

  private long currentWatermark() {
    return policy == TimestampPolicy.PROCESSING_TIME ? readingTime - 1 : watermarks.watermark();
  }

  private boolean isIdle() {
    if (partitions.isEmpty()) {
      // A bounded reader that has read all it had ends; its last records may still be on their way.
      return !hadPartitions;
    }
    return policy != TimestampPolicy.PROCESSING_TIME && watermarks.isIdle();
  }

  private void emitWatermark(ReaderOutput<?> output) {
    if (!allAssigned) {
      return;
    }
    boolean idle = isIdle();
    if (!idle) {
      output.markActive();
    }
    long watermark = currentWatermark();
    if (watermark != PartitionWatermarks.NONE && !partitions.isEmpty()) {
      output.emitWatermark(new Watermark(watermark)); // Flink drops one that does not advance
    }
    if (idle) {
      output.markIdle();
    }
  }

  @Override
  public CompletableFuture<Void> isAvailable() {
    CompletableFuture<Void> available = records.isAvailable();
    return available.isDone() || !isTimeNeeded() ? available : timer.orElseTimer(available);
  }

  private boolean isTimeNeeded() {
    if (!allAssigned) {
      return true;
    }
    return !partitions.isEmpty()
        && (policy == TimestampPolicy.PROCESSING_TIME || watermarks.isWaiting());
  }

  @Override
  public void addSplits(List<KafkaPartitionSplit> splits) {
    for (KafkaPartitionSplit split : splits) {
      partitions.put(split.splitId(), split.getTopicPartition());
      watermarks.add(split.getTopicPartition());
      stalled.behind(split.getTopicPartition(), clock.relativeTimeMillis());
      hadPartitions = true;
    }
    assigned += splits.size();
    records.addSplits(splits);
    timer.wakeUp(); // the reader is no longer idle
  }

  @Override
  public void handleSourceEvents(SourceEvent event) {
    if (event instanceof AllAssignedAnswer) {
      allAssigned = true;
      timer.wakeUp();
    } else {
      records.handleSourceEvents(event);
    }
  }

  @Override
  public List<KafkaPartitionSplit> snapshotState(long checkpointId) {
    return records.snapshotState(checkpointId);
  }

  @Override
  public void notifyCheckpointComplete(long checkpointId) throws Exception {
    records.notifyCheckpointComplete(checkpointId);
  }

  @Override
  public void notifyCheckpointAborted(long checkpointId) throws Exception {
    records.notifyCheckpointAborted(checkpointId);
  }

  @Override
  public void notifyNoMoreSplits() {
    records.notifyNoMoreSplits();
  }

  @Override
  public void close() throws Exception {
    timer.close();
    records.close();
  }

  /** Takes the connector reader's records into the frame; splits have no outputs of their own. */
  private final class Collector implements ReaderOutput<ConsumerRecord<byte[], byte[]>> {
    private ReaderOutput<?> output;
    private TopicPartition partition; // of the last record, as thousands in a row have the same

    @Override
    public void collect(ConsumerRecord<byte[], byte[]> record) {
      if (!isOf(record, partition)) {
        partition = new TopicPartition(record.topic(), record.partition());
      }
      long timestamp = policy.timestamp(record, readingTime);
      frame.add(partition, record, timestamp);
      if (TimestampPolicy.isEventTime(timestamp)) {
        // A time in the future counts as now: one wrong clock would make all other records late.
        watermarks.record(partition, Math.min(timestamp, readingTime));
      } else {
        watermarks.behind(partition);
      }
    }

    private boolean isOf(ConsumerRecord<?, ?> record, TopicPartition other) {
      return other != null
          && other.partition() == record.partition()
          && other.topic().equals(record.topic());
    }

    @Override
    public void collect(ConsumerRecord<byte[], byte[]> record, long timestamp) {
      collect(record);
    }

    @Override
    public SourceOutput<ConsumerRecord<byte[], byte[]>> createOutputForSplit(String splitId) {
      return this;
    }

    @Override
    public void releaseOutputForSplit(String splitId) {
      output.releaseOutputForSplit(splitId);
      TopicPartition partition = partitions.remove(splitId);
      finished.add(partition);
      stalled.caughtUp(partition);
      watermarks.remove(partition);
      PartitionBacklog told = backlogs.get(partition);
      if (told == null || told.records() != 0) {
        frame.addBacklog(partition); // none is left: nobody tells of it any more
      }
    }

    @Override
    public void emitWatermark(Watermark watermark) {}

    @Override
    public void markIdle() {}

    @Override
    public void markActive() {}
  }
}
