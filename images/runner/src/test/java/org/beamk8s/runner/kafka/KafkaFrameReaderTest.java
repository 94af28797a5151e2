package org.beamk8s.runner.kafka;

import static org.beamk8s.runner.kafka.Records.readSpec;
import static org.beamk8s.runner.kafka.Records.record;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.lang.reflect.Proxy;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.SourceOutput;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.metrics.groups.UnregisteredMetricsGroup;
import org.apache.flink.util.clock.ManualClock;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.beamk8s.runner.kafka.AnsweringEnumerator.AllAssignedAnswer;
import org.beamk8s.runner.kafka.FetchLog.Position;
import org.junit.Test;

/** The reader over a scripted reader of single records; each line of output is one event. */
public class KafkaFrameReaderTest {
  private static final TopicPartition A = new TopicPartition("t", 0);
  private static final TopicPartition B = new TopicPartition("t", 1);
  private static final long MIN = BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis();

  private static final long START = 1_000_000; // ms; later than the records' timestamps

  private final ManualClock clock = new ManualClock(START * 1_000_000L);
  private final List<Object> questions = new ArrayList<>();
  private final List<String> events = new ArrayList<>();
  private ScriptedReader records;

  @Test
  public void allThatIsThereGoesIntoOneFrameAndThenTheWatermark() throws Exception {
    KafkaFrameReader reader = reader("", A);
    records.batch(Map.of(A, new Position(3, 3)), record(A, 0, 50), record(A, 1, 70));
    records.batch(Map.of(A, new Position(3, 3)), record(A, 2, 60));
    assertEquals(InputStatus.NOTHING_AVAILABLE, reader.pollNext(output));
    assertEquals(List.of("frame of 3 at 50", "watermark 69"), events);
  }

  @Test
  public void aFullFrameLeavesTheRestToTheNextCall() throws Exception {
    KafkaFrameReader reader = reader("'frame_records': 2", A);
    records.batch(
        Map.of(A, new Position(3, 3)), record(A, 0, 10), record(A, 1, 20), record(A, 2, 30));
    assertEquals(InputStatus.MORE_AVAILABLE, reader.pollNext(output));
    // in the middle of a batch the watermark stays
    assertEquals(List.of("frame of 2 at 10"), events);
    events.clear();
    assertEquals(InputStatus.NOTHING_AVAILABLE, reader.pollNext(output));
    assertEquals(List.of("frame of 1 at 30", "watermark 29"), events);
  }

  @Test
  public void aBatchWithoutRecordsDoesNotHideTheNextOne() throws Exception {
    KafkaFrameReader reader = reader("", A);
    records.batch(Map.of(A, new Position(0, 1)));
    records.batch(Map.of(A, new Position(1, 1)), record(A, 0, 10));
    assertEquals(InputStatus.NOTHING_AVAILABLE, reader.pollNext(output));
    assertEquals(List.of("frame of 1 at 10", "watermark 9"), events);
  }

  @Test
  public void aBacklogNotYetFetchedHoldsTheWatermark() throws Exception {
    KafkaFrameReader reader = reader("", A, B);
    records.batch(
        Map.of(A, new Position(1, 1), B, new Position(0, 9)), record(A, 0, 5000));
    poll(reader);
    clock.advanceTime(1, TimeUnit.HOURS);
    poll(reader);
    assertFalse(events.toString(), events.toString().contains("watermark"));
    records.batch(Map.of(A, new Position(1, 1), B, new Position(1, 9)), record(B, 0, 100));
    poll(reader);
    assertEquals("watermark 99", events.get(events.size() - 1));
  }

  /**
   * The reader was held up for an hour. B was quiet and caught up when that began; its next record
   * was fetched meanwhile, behind others. It is not idle although the timeout went by.
   */
  @Test
  public void backpressureMakesNoPartitionIdle() throws Exception {
    KafkaFrameReader reader = reader("'frame_records': 1", A, B);
    Map<TopicPartition, Position> first = Map.of(A, new Position(1, 1), B, new Position(1, 1));
    records.batch(first, record(A, 0, 100), record(B, 0, 100));
    drain(reader);
    assertEquals("watermark 99", events.get(events.size() - 1));
    clock.advanceTime(10, TimeUnit.MILLISECONDS); // of the 100 of the idle timeout
    records.batch(Map.of(A, new Position(2, 2), B, new Position(1, 1)), record(A, 1, 9000));
    records.batch(Map.of(A, new Position(2, 2), B, new Position(2, 2)), record(B, 1, 200));
    clock.advanceTime(1, TimeUnit.HOURS);
    drain(reader);
    records.batch(Map.of(A, new Position(2, 2), B, new Position(2, 2)));
    drain(reader);
    // idle only in the end, when nothing is left and nothing came for the hour
    assertEquals(
        List.of(
            "frame of 1 at 100",
            "frame of 1 at 100",
            "frame of 0 at 100", // the backlog, unknown before the first batch's end, is 0
            "watermark 99",
            "frame of 1 at 9000",
            "frame of 1 at 200",
            "watermark 199",
            "idle"),
        events);
  }

  @Test
  public void aQuietPartitionIsLeftOutAfterTheTimeoutAndAllQuietAreIdle() throws Exception {
    KafkaFrameReader reader = reader("", A, B);
    Map<TopicPartition, Position> end = Map.of(A, new Position(1, 1), B, new Position(1, 1));
    records.batch(end, record(A, 0, 500), record(B, 0, 100));
    poll(reader);
    assertEquals("watermark 99", events.get(events.size() - 1));
    reader.isAvailable().get(60, TimeUnit.SECONDS); // time may change something: the timer wakes
    clock.advanceTime(100, TimeUnit.MILLISECONDS);
    events.clear();
    poll(reader);
    poll(reader);
    assertEquals(1, records.questions); // is the broker of the same opinion?
    assertEquals(List.of(), events);
    records.batch(end);
    poll(reader);
    assertEquals(List.of("idle"), events);
    records.batch(Map.of(A, new Position(2, 2), B, new Position(1, 1)), record(A, 1, 600));
    events.clear();
    poll(reader);
    assertEquals(List.of("active", "frame of 1 at 600", "watermark 599"), events);
    reader.close();
  }

  /** B's records went to another broker while nothing was heard of the one that had it. */
  @Test
  public void aPartitionThatTheBrokerDoesNotConfirmHoldsTheWatermark() throws Exception {
    KafkaFrameReader reader = reader("", A, B);
    records.batch(
        Map.of(A, new Position(1, 1), B, new Position(1, 1)), record(A, 0, 500), record(B, 0, 100));
    poll(reader);
    clock.advanceTime(1, TimeUnit.HOURS);
    poll(reader);
    assertEquals(1, records.questions);
    Position unknown = new Position(1, Position.END_UNKNOWN);
    records.batch(Map.of(A, new Position(2, 2), B, unknown), record(A, 1, 9000));
    poll(reader);
    records.batch(Map.of(A, new Position(2, 2), B, new Position(2, 2)), record(B, 1, 200));
    poll(reader);
    assertEquals("watermark 199", events.get(events.size() - 1));
  }

  /** The busy one leaves no moment in which nothing is left to be read. */
  @Test
  public void aQuietPartitionIsAskedForWhileAnotherIsBusy() throws Exception {
    KafkaFrameReader reader = reader("'frame_records': 1", A, B);
    for (int i = 0; i < 20; i++) {
      clock.advanceTime(10, TimeUnit.MILLISECONDS);
      records.batch(
          Map.of(A, new Position(i + 1, 99), B, new Position(3, 3)), record(A, i, 1000 + i));
    }
    for (int i = 0; i < 19; i++) {
      assertEquals(InputStatus.MORE_AVAILABLE, poll(reader));
    }
    assertEquals(1, records.questions);
  }

  @Test
  public void aReaderWithoutPartitionsHoldsUntilItKnowsThatItGetsNone() throws Exception {
    KafkaFrameReader reader = newReader("");
    poll(reader);
    assertEquals(List.of(), events);
    assertEquals(1, questions.size());
    reader.handleSourceEvents(new AllAssignedAnswer());
    poll(reader);
    assertEquals(List.of("idle"), events);
    assertEquals(1, questions.size());
    reader.close();
  }

  /** Those that a topic got while a restored job did not run. */
  @Test
  public void aReaderHoldsTheWatermarkUntilItKnowsAllItsPartitions() throws Exception {
    KafkaFrameReader reader = newReader("", A);
    records.batch(Map.of(A, new Position(1, 1)), record(A, 0, 5000));
    poll(reader);
    poll(reader);
    assertEquals(List.of("frame of 1 at 5000"), events);
    assertEquals(1, questions.size()); // not with each poll
    reader.addSplits(List.of(new KafkaPartitionSplit(B, 0)));
    reader.handleSourceEvents(new AllAssignedAnswer());
    poll(reader);
    records.batch(Map.of(A, new Position(1, 1), B, new Position(1, 1)), record(B, 0, 100));
    poll(reader);
    assertEquals("watermark 99", events.get(events.size() - 1));
    reader.close();
  }

  @Test
  public void aChangedBacklogIsToldWithoutRecords() throws Exception {
    KafkaFrameReader reader = reader("", A);
    records.batch(Map.of(A, new Position(0, 0)));
    poll(reader);
    assertEquals(List.of("frame of 0 at " + MIN, "idle"), events);
    events.clear();
    poll(reader);
    assertEquals(List.of(), events); // once
  }

  @Test
  public void aRecordWithoutAnEventTimeMovesNothing() throws Exception {
    KafkaFrameReader reader = reader("", A);
    records.batch(Map.of(A, new Position(1, 9)), record(A, 0, Long.MAX_VALUE));
    drain(reader);
    records.batch(Map.of(A, new Position(3, 9)), record(A, 1, -1), record(A, 2, 50));
    drain(reader);
    long earliest = BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis();
    assertEquals(List.of("frame of 1 at " + earliest, "frame of 2 at 50", "watermark 49"), events);
  }

  @Test
  public void whatWasDeletedIsToldOnceAndWithAllThatCameFirst() throws Exception {
    KafkaFrameReader reader = reader("", A, B);
    records.batch(Map.of(A, new Position(2, 9)), record(A, 0, 50), record(A, 1, 70));
    records.batch(Map.of(A, new Position(5, 9)), Map.of(A, 3L, B, 4L));
    records.batch(Map.of(A, new Position(9, 9)), Map.of(A, 1L), record(A, 8, 80));
    drain(reader);
    records.batch(Map.of(A, new Position(10, 10)), record(A, 9, 90));
    drain(reader);
    assertEquals(List.of("frame of 3 at 50, lost 8", "frame of 1 at 90"), events);
  }

  @Test
  public void aTimestampInTheFutureCountsAsNow() throws Exception {
    KafkaFrameReader reader = reader("", A);
    records.batch(Map.of(A, new Position(1, 1)), record(A, 0, START + 99_999));
    poll(reader);
    assertEquals(
        List.of("frame of 1 at " + (START + 99_999), "watermark " + (START - 1)), events);
  }

  @Test
  public void withProcessingTimeTheClockIsTheWatermark() throws Exception {
    KafkaFrameReader reader = reader("'timestamp_policy': 'processing_time'", A);
    poll(reader);
    assertEquals(List.of("watermark " + (START - 1)), events);
    clock.advanceTime(50, TimeUnit.MILLISECONDS);
    records.batch(Map.of(A, new Position(1, 1)), record(A, 0, -1));
    events.clear();
    poll(reader);
    assertEquals(List.of("frame of 1 at " + (START + 50), "watermark " + (START + 49)), events);
  }

  @Test
  public void aFinishedPartitionHoldsNobodyAndTheEndIsTheEnd() throws Exception {
    KafkaFrameReader reader = reader("", A, B);
    records.batch(Map.of(A, new Position(1, 5)), record(A, 0, 500));
    records.finished = B;
    records.ended = true;
    assertEquals(InputStatus.END_OF_INPUT, poll(reader));
    assertTrue(events.toString(), events.contains("frame of 1 at 500"));
    assertTrue(events.toString(), events.contains("released t-1"));
  }

  private InputStatus poll(KafkaFrameReader reader) throws Exception {
    return reader.pollNext(output);
  }

  private void drain(KafkaFrameReader reader) throws Exception {
    while (poll(reader) == InputStatus.MORE_AVAILABLE) {
      // on to the next frame
    }
  }

  private KafkaFrameReader reader(String changes, TopicPartition... partitions) {
    KafkaFrameReader reader = newReader(changes, partitions);
    reader.handleSourceEvents(new AllAssignedAnswer());
    return reader;
  }

  /** It does not know yet that it has all its partitions. */
  private KafkaFrameReader newReader(String changes, TopicPartition... partitions) {
    KafkaReadSpec spec = KafkaReadSpec.parse(readSpec(changes));
    FrameSize full =
        new FrameSize(spec.frameRecords()) {
          @Override
          int records() {
            return spec.frameRecords();
          }
        };
    KafkaFrameReader reader =
        new KafkaFrameReader(
            spec,
            full,
            context(),
            clock,
            log -> records = new ScriptedReader(log));
    for (TopicPartition partition : partitions) {
      reader.addSplits(List.of(new KafkaPartitionSplit(partition, 0)));
    }
    return reader;
  }

  private SourceReaderContext context() {
    return (SourceReaderContext)
        Proxy.newProxyInstance(
            getClass().getClassLoader(),
            new Class<?>[] {SourceReaderContext.class},
            (proxy, method, arguments) -> {
              if (method.getName().equals("metricGroup")) {
                return UnregisteredMetricsGroup.createSourceReaderMetricGroup();
              }
              questions.add(arguments[0]);
              return null;
            });
  }

  /** Like Flink's output: a watermark that does not advance and a repeated status are dropped. */
  private final ReaderOutput<WindowedValue<byte[]>> output =
      new ReaderOutput<>() {
        private long last = Long.MIN_VALUE;
        private boolean idle;

        @Override
        public void collect(WindowedValue<byte[]> frame, long timestamp) {
          ByteBuffer data = ByteBuffer.wrap(frame.getValue());
          int records = 0;
          long lost = 0;
          for (int segment = data.getInt(2), at = 6; segment > 0; segment--) {
            int n = data.getInt(at + 2 + data.getShort(at) + 37);
            records += n;
            lost += data.getLong(at + 2 + data.getShort(at) + 28);
            int arrays = at + 2 + data.getShort(at) + 41;
            int payload = 0;
            for (int i = 0; i < 2 * n; i++) {
              payload += Math.max(0, data.getInt(arrays + 8 * n + 4 * i));
            }
            at = arrays + 16 * n + payload;
          }
          assertEquals(timestamp, frame.getTimestamp().getMillis());
          assertTrue("late: " + timestamp, records == 0 || timestamp > last);
          events.add("frame of " + records + " at " + timestamp + (lost > 0 ? ", lost " + lost : ""));
        }

        @Override
        public void collect(WindowedValue<byte[]> frame) {
          throw new AssertionError("without a timestamp");
        }

        @Override
        public void emitWatermark(Watermark watermark) {
          if (watermark.getTimestamp() > last) {
            last = watermark.getTimestamp();
            markActive();
            events.add("watermark " + last);
          }
        }

        @Override
        public void markIdle() {
          if (!idle) {
            idle = true;
            events.add("idle");
          }
        }

        @Override
        public void markActive() {
          if (idle) {
            idle = false;
            events.add("active");
          }
        }

        @Override
        public SourceOutput<WindowedValue<byte[]>> createOutputForSplit(String splitId) {
          throw new AssertionError();
        }

        @Override
        public void releaseOutputForSplit(String splitId) {
          events.add("released " + splitId);
        }
      };

  /** Delivers batches as the connector's reader does, with its habits. */
  private static final class ScriptedReader
      implements SourceReader<ConsumerRecord<byte[], byte[]>, KafkaPartitionSplit> {
    private final FetchLog log;
    private final Deque<Deque<ConsumerRecord<byte[], byte[]>>> batches = new ArrayDeque<>();
    private final Deque<FetchLog.Entry> entries = new ArrayDeque<>();
    private TopicPartition finished;
    private boolean ended;
    private int questions;

    ScriptedReader(FetchLog log) {
      this.log = log;
      log.onQuestion(() -> questions++);
    }

    @SafeVarargs
    final void batch(
        Map<TopicPartition, Position> positions, ConsumerRecord<byte[], byte[]>... records) {
      batch(positions, Map.of(), records);
    }

    @SafeVarargs
    final void batch(
        Map<TopicPartition, Position> positions,
        Map<TopicPartition, Long> lost,
        ConsumerRecord<byte[], byte[]>... records) {
      batches.add(new ArrayDeque<>(List.of(records)));
      entries.add(log.fetched(positions, log.takeQuestion(), lost));
    }

    @Override
    public InputStatus pollNext(ReaderOutput<ConsumerRecord<byte[], byte[]>> output) {
      boolean began = !batches.isEmpty() && !batches.peek().isEmpty();
      while (!batches.isEmpty()) {
        if (!batches.peek().isEmpty()) {
          output.collect(batches.peek().poll());
          return InputStatus.MORE_AVAILABLE;
        }
        batches.poll();
        log.emitted(entries.poll());
        if (!began) {
          began = true;
          if (!batches.isEmpty() && batches.peek().isEmpty()) {
            return InputStatus.NOTHING_AVAILABLE; // although another one waits
          }
        }
      }
      if (finished != null) {
        output.releaseOutputForSplit(KafkaPartitionSplit.toSplitId(finished));
        finished = null;
      }
      return ended ? InputStatus.END_OF_INPUT : InputStatus.NOTHING_AVAILABLE;
    }

    @Override
    public CompletableFuture<Void> isAvailable() {
      return batches.isEmpty()
          ? new CompletableFuture<>()
          : CompletableFuture.completedFuture(null);
    }

    @Override
    public void start() {}

    @Override
    public List<KafkaPartitionSplit> snapshotState(long checkpointId) {
      return List.of();
    }

    @Override
    public void addSplits(List<KafkaPartitionSplit> splits) {}

    @Override
    public void notifyNoMoreSplits() {}

    @Override
    public void close() {}
  }
}
