package org.beamk8s.runner.kafka;

import java.util.HashMap;
import java.util.Map;

/**
 * The event-time watermark of one reader of many partitions. Pure: times are values.
 *
 * <p>The watermark is the least, over all assigned partitions that are not idle, of {@code greatest
 * timestamp seen - out-of-orderness - 1} (Flink's convention: no element with a timestamp at or
 * below the watermark is expected). It never goes back.
 *
 * <p>Two rules keep records from being dropped as late without a word:
 *
 * <ul>
 *   <li>A partition of which nothing is known holds the watermark where it is. Flink's own
 *       per-split watermarks hold it too until the idleness timeout, and then leave the partition
 *       out although it has a backlog that just was not fetched yet.
 *   <li>A partition is idle, and left out, only while it is known to have no backlog, nor records
 *       of an open transaction, which are old when it is committed. Then it must
 *       stay so for the idle timeout, as its next record may be on its way; except if the partition
 *       never held a record, as an empty topic should not hold others up. That nothing is heard of
 *       a partition is no such knowledge, as its broker may be gone and another one take its
 *       records: time counts only up to when the broker was last asked.
 * </ul>
 *
 * <p>If all are idle the watermark stays and {@link #isIdle} tells it: it never jumps to the wall
 * clock.
 */
final class PartitionWatermarks<K> {
  /** No watermark yet. */
  static final long NONE = Long.MIN_VALUE;

  /** An idle partition is confirmed so often. */
  private static final long CONFIRMATION_INTERVAL_MS = 5000;

  private final long outOfOrderness;
  private final long idleTimeout;
  private final Map<K, Partition> partitions = new HashMap<>();
  private long watermark = NONE;
  private boolean idle = true;

  private static final class Partition {
    long greatestTimestamp = NONE;
    boolean caughtUp;
    boolean neverHeldRecord;
    long caughtUpSince;
    long confirmedAt;
    boolean idle;
  }

  /** Both in milliseconds; an idle timeout of 0 is none: only what never held a record is idle. */
  PartitionWatermarks(long outOfOrderness, long idleTimeout) {
    this.outOfOrderness = outOfOrderness;
    this.idleTimeout = idleTimeout;
  }

  void add(K key) {
    partitions.put(key, new Partition());
    idle = false;
  }

  void remove(K key) {
    partitions.remove(key);
  }

  /** A record of the partition was emitted; it is no longer known to be caught up. */
  void record(K key, long timestamp) {
    Partition partition = partitions.get(key);
    partition.greatestTimestamp = Math.max(partition.greatestTimestamp, timestamp);
    behind(partition);
  }

  /** The partition has, or may have, records that were not emitted. */
  void behind(K key) {
    Partition partition = partitions.get(key);
    if (partition != null) {
      behind(partition);
    }
  }

  private void behind(Partition partition) {
    partition.caughtUp = false;
    partition.idle = false;
    idle = false;
  }

  /** At {@code now}, all that the partition holds (nothing ever, if so said) had been emitted. */
  void caughtUp(K key, boolean neverHeldRecord, long now) {
    Partition partition = partitions.get(key);
    if (partition == null) {
      return; // finished meanwhile
    }
    if (!partition.caughtUp) {
      partition.caughtUp = true;
      partition.caughtUpSince = now;
      partition.confirmedAt = now;
    }
    partition.neverHeldRecord = neverHeldRecord;
  }

  /** At {@code now} the broker was asked anew, and each partition still caught up is so indeed. */
  void confirmed(long now) {
    partitions.values().forEach(partition -> partition.confirmedAt = now);
  }

  /** Whether a partition is about to be idle at {@code now}, or is so, and should be confirmed. */
  boolean needsConfirmation(long now) {
    for (Partition partition : partitions.values()) {
      if (partition.idle
          ? now - partition.confirmedAt >= CONFIRMATION_INTERVAL_MS
          : isQuiet(partition, now)) {
        return true;
      }
    }
    return false;
  }

  private boolean isQuiet(Partition partition, long now) {
    return partition.caughtUp
        && idleTimeout > 0
        && now - partition.caughtUpSince >= idleTimeout;
  }

  /** Brings the watermark up to what is known. */
  void advance() {
    long least = Long.MAX_VALUE;
    idle = true;
    for (Partition partition : partitions.values()) {
      partition.idle =
          (partition.caughtUp && partition.neverHeldRecord)
              || isQuiet(partition, partition.confirmedAt);
      if (!partition.idle) {
        idle = false;
        least = Math.min(least, partition.greatestTimestamp);
      }
    }
    if (!idle && least != NONE) {
      watermark = Math.max(watermark, least - outOfOrderness - 1);
    }
  }

  long watermark() {
    return watermark;
  }

  /** Whether no partition is expected to have records soon; true without any partition. */
  boolean isIdle() {
    return idle;
  }

  /** Whether time alone, without a record, may change something. */
  boolean isWaiting() {
    for (Partition partition : partitions.values()) {
      if (!partition.idle) {
        return true;
      }
    }
    return false;
  }
}
