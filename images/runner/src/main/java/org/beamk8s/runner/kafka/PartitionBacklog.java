package org.beamk8s.runner.kafka;

import java.util.function.LongSupplier;
import org.apache.flink.metrics.MetricGroup;

/**
 * How much of a partition is left to read, in records, in bytes by the size of what was read last,
 * and in the time that it takes at the present rate (Dataflow's "backlog seconds"). The rate is that
 * of reading while there was a backlog: a reader that waits for records says nothing about how fast
 * it can read them. transforms/backlog.py is the same for the other runners.
 */
final class PartitionBacklog {
  static final long UNKNOWN = -1;

  private static final double SMOOTHED_READS = 8;
  private static final double SMOOTHED_MS = 30_000;

  private final LongSupplier newerEnd;

  // Written by the reader, shown by the threads that report metrics.
  private volatile long next;
  private volatile long end = UNKNOWN;
  private volatile double size = Double.NaN;
  private volatile double millisEach = Double.NaN;

  private boolean hadBacklog;
  private long at = Long.MIN_VALUE;
  private double read;
  private double passed;

  /**
   * {@code newerEnd} is the end of the partition as it was last heard of, maybe since the reader was
   * here: a step may keep it waiting for long while records are written. Or unknown.
   */
  PartitionBacklog(LongSupplier newerEnd) {
    this.newerEnd = newerEnd;
  }

  /**
   * {@code count} records of so many bytes were read until now, {@code next} is the next to be read,
   * and the partition's end was there at least, or is unknown.
   */
  void add(long next, long end, int count, long countBytes, long nowMs) {
    if (count > 0) {
      double mean = (double) countBytes / count;
      size = Double.isNaN(size) ? mean : size + (mean - size) / SMOOTHED_READS;
    }
    if (hadBacklog && at != Long.MIN_VALUE) {
      double kept = Math.exp((at - nowMs) / SMOOTHED_MS);
      read = read * kept + count;
      passed = passed * kept + nowMs - at;
      millisEach = read == 0 ? Double.NaN : passed / read;
    }
    at = nowMs;
    this.next = next;
    this.end = end;
    hadBacklog = records() > 0;
  }

  long records() {
    return end == UNKNOWN ? UNKNOWN : Math.max(0, Math.max(end, newerEnd.getAsLong()) - next);
  }

  long bytes() {
    return times(size);
  }

  long millis() {
    return times(millisEach);
  }

  private long times(double each) {
    long left = records();
    if (left <= 0) {
      return left;
    }
    return Double.isNaN(each) ? UNKNOWN : Math.round(left * each);
  }

  /** As metrics of a partition, beside the connector's offsets. */
  void register(MetricGroup group) {
    group.gauge("backlogRecords", this::records);
    group.gauge("backlogBytes", this::bytes);
    group.gauge("backlogSeconds", this::seconds);
  }

  /** Rounded up; -1 = unknown. */
  long seconds() {
    long millis = millis();
    return millis == UNKNOWN ? UNKNOWN : (millis + 999) / 1000;
  }
}
