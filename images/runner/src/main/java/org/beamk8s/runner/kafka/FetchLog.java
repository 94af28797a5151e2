package org.beamk8s.runner.kafka;

import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import org.apache.flink.util.clock.Clock;
import org.apache.kafka.common.TopicPartition;

/**
 * What the fetcher thread tells the task thread: each batch has an entry with a number, the time
 * when it was fetched and every partition's position after it. The entry is delivered when the
 * batch was emitted as a whole.
 */
public final class FetchLog {
  private final AtomicLong lastFetched = new AtomicLong();
  private final Clock clock;
  private final Consumer<Entry> onEmitted;
  private long lastEmitted;

  /**
   * Times are relative ones of {@code clock}, so that a change of the wall clock makes nothing
   * idle. {@code onEmitted} is called in the task thread.
   */
  FetchLog(Clock clock, Consumer<Entry> onEmitted) {
    this.clock = clock;
    this.onEmitted = onEmitted;
  }

  /** In the fetcher thread: a batch was fetched, and {@code positions} hold after it. */
  public Entry fetched(Map<TopicPartition, Position> positions) {
    return new Entry(lastFetched.incrementAndGet(), clock.relativeTimeMillis(), positions);
  }

  /** In the task thread: all records of the entry's batch were emitted. */
  public void emitted(Entry entry) {
    lastEmitted = entry.number;
    onEmitted.accept(entry);
  }

  /**
   * In the task thread: whether all that was fetched was emitted. If so, what the last entry told
   * still holds now: had records come since, their batch would have been counted.
   */
  boolean isEmitted() {
    return lastEmitted == lastFetched.get();
  }

  /** One batch. */
  public static final class Entry {
    private final long number;
    final long fetchedAt;
    final Map<TopicPartition, Position> positions;

    private Entry(long number, long fetchedAt, Map<TopicPartition, Position> positions) {
      this.number = number;
      this.fetchedAt = fetchedAt;
      this.positions = positions;
    }
  }

  /** Where the consumer stands in a partition. */
  public static final class Position {
    public static final long END_UNKNOWN = -1;

    /** The offset to be read next. */
    final long next;

    /** The offset after the partition's last record as far as the consumer knows, or unknown. */
    final long end;

    public Position(long next, long end) {
      this.next = next;
      this.end = end;
    }

    boolean isCaughtUp() {
      return end != END_UNKNOWN && next >= end;
    }

    /** End offset 0: not even a record that was deleted later. */
    boolean neverHeldRecord() {
      return end == 0;
    }

    /** Offsets from {@code offset} to the end, or -1 if not known. */
    long backlog(long offset) {
      return end == END_UNKNOWN ? ReadFrame.BACKLOG_UNKNOWN : Math.max(0, end - offset);
    }
  }
}
