package org.beamk8s.runner.kafka;

import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Consumer;
import org.apache.flink.util.clock.Clock;
import org.apache.kafka.common.TopicPartition;

/**
 * What the fetcher thread tells the task thread: each batch has an entry with a number, the time
 * when it was fetched and every partition's position after it. The entry is delivered when the
 * batch was emitted as a whole. And one question back: are the partitions that seem caught up?
 */
public final class FetchLog {
  /** How often the broker is asked at most; an answer is for all partitions. */
  private static final long QUESTION_INTERVAL_MS = 2000;

  private final AtomicLong lastFetched = new AtomicLong();
  private final Clock clock;
  private final Consumer<Entry> onEmitted;
  private final AtomicBoolean question = new AtomicBoolean();
  private volatile Runnable onQuestion = () -> {};
  private volatile Map<TopicPartition, Position> last = Map.of();
  private volatile long lastEmitted;
  private boolean wakeUp;
  private long askedAt = Long.MIN_VALUE / 2;

  /**
   * Times are relative ones of {@code clock}, so that a change of the wall clock makes nothing
   * idle. {@code onEmitted} is called in the task thread.
   */
  FetchLog(Clock clock, Consumer<Entry> onEmitted) {
    this.clock = clock;
    this.onEmitted = onEmitted;
  }

  /**
   * In the fetcher thread: a batch was fetched, and {@code positions} hold after it. {@code
   * confirmed}: the broker was asked for the ends of those caught up, and did not just once answer
   * a fetch of them. {@code lost}: so many records were passed, deleted before they were read.
   */
  public Entry fetched(
      Map<TopicPartition, Position> positions,
      boolean confirmed,
      Map<TopicPartition, Long> lost) {
    last = positions;
    return new Entry(
        lastFetched.incrementAndGet(), clock.relativeTimeMillis(), positions, confirmed, lost);
  }

  /**
   * In any thread: the positions after the last batch, though it may not be emitted, with the ends
   * that were heard of since.
   */
  Map<TopicPartition, Position> lastFetched() {
    return last;
  }

  /** In the fetcher thread: where partitions end now, while no batch is fetched. */
  public void ended(Map<TopicPartition, Position> positions) {
    last = positions;
  }

  /**
   * In the fetcher thread: waits until fewer than {@code most} batches are fetched and not emitted,
   * or until {@link #wakeUp}.
   *
   * @return false: neither, and it is the time of {@link System#nanoTime} that was given
   */
  public synchronized boolean awaitRoom(int most, long until) {
    while (!wakeUp && lastFetched.get() - lastEmitted >= most) {
      long left = (until - System.nanoTime()) / 1_000_000;
      if (left <= 0) {
        return false;
      }
      try {
        wait(left);
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt(); // the next poll is told so
        return true;
      }
    }
    wakeUp = false;
    return true;
  }

  /** In any thread. */
  public synchronized void wakeUp() {
    wakeUp = true;
    notifyAll();
  }

  /** {@code onQuestion} makes the fetcher thread fetch at once, and is called in another one. */
  public void onQuestion(Runnable onQuestion) {
    this.onQuestion = onQuestion;
  }

  /** In the task thread: asks for an entry that is confirmed, unless that was done just now. */
  void ask() {
    long now = clock.relativeTimeMillis();
    if (now - askedAt >= QUESTION_INTERVAL_MS) {
      askedAt = now;
      question.set(true);
      onQuestion.run();
    }
  }

  /** In the fetcher thread: whether the next entry is wanted confirmed. True once a question. */
  public boolean takeQuestion() {
    return question.getAndSet(false);
  }

  /** In the task thread: all records of the entry's batch were emitted. */
  public void emitted(Entry entry) {
    synchronized (this) {
      lastEmitted = entry.number;
      notifyAll();
    }
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
    final boolean confirmed;
    final Map<TopicPartition, Long> lost;

    private Entry(
        long number,
        long fetchedAt,
        Map<TopicPartition, Position> positions,
        boolean confirmed,
        Map<TopicPartition, Long> lost) {
      this.number = number;
      this.fetchedAt = fetchedAt;
      this.positions = positions;
      this.confirmed = confirmed;
      this.lost = lost;
    }
  }

  /** Where the consumer stands in a partition. */
  public static final class Position {
    public static final long END_UNKNOWN = -1;

    /** The offset to be read next. */
    public final long next;

    /** The offset after the partition's last record as far as the consumer knows, or unknown. */
    public final long end;

    /** Whether there are records beyond the end, of a transaction that may yet be committed. */
    private final boolean open;

    public Position(long next, long end) {
      this(next, end, false);
    }

    public Position(long next, long end, boolean open) {
      this.next = next;
      this.end = end;
      this.open = open;
    }

    /** With the end that an answer tells of the same place, or unknown if that did not come. */
    public Position with(Position answer) {
      boolean unknown = answer.end == END_UNKNOWN;
      return new Position(next, unknown ? END_UNKNOWN : Math.max(end, answer.end), open);
    }

    public boolean isCaughtUp() {
      return end != END_UNKNOWN && next >= end;
    }

    /** Caught up, and no older record is on its way: one of an open transaction was written before. */
    boolean isQuiet() {
      return isCaughtUp() && !open;
    }

    /** End offset 0: not even a record that was deleted later. */
    boolean neverHeldRecord() {
      return end == 0;
    }

    /** Offsets from {@code offset} to the end, or -1 if not known. */
    long backlog(long offset) {
      return end == END_UNKNOWN ? PartitionBacklog.UNKNOWN : Math.max(0, end - offset);
    }
  }
}
