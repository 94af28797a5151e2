package org.beamk8s.runner.kafka;

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

  // Written by the reader, shown by the threads that report metrics.
  private volatile long records = UNKNOWN;
  private volatile long bytes = UNKNOWN;
  private volatile long millis = UNKNOWN;

  private double size = Double.NaN;
  private long at = Long.MIN_VALUE;
  private double read;
  private double passed;

  /** {@code count} records of so many bytes were read until now, and so many are left. */
  void add(long left, int count, long countBytes, long nowMs) {
    if (count > 0) {
      double mean = (double) countBytes / count;
      size = Double.isNaN(size) ? mean : size + (mean - size) / SMOOTHED_READS;
    }
    if (records > 0 && at != Long.MIN_VALUE) {
      double kept = Math.exp((at - nowMs) / SMOOTHED_MS);
      read = read * kept + count;
      passed = passed * kept + nowMs - at;
    }
    at = nowMs;
    records = left;
    if (left == 0 || left == UNKNOWN) {
      bytes = left;
      millis = left;
    } else {
      bytes = Double.isNaN(size) ? UNKNOWN : Math.round(left * size);
      millis = read == 0 ? UNKNOWN : Math.round(left * passed / read);
    }
  }

  long records() {
    return records;
  }

  long bytes() {
    return bytes;
  }

  long millis() {
    return millis;
  }

  /** As metrics of a partition, beside the connector's offsets. */
  void register(MetricGroup group) {
    group.gauge("backlogRecords", this::records);
    group.gauge("backlogBytes", this::bytes);
    group.gauge("backlogSeconds", this::seconds);
  }

  /** Rounded up; -1 = unknown. */
  long seconds() {
    return millis == UNKNOWN ? UNKNOWN : (millis + 999) / 1000;
  }
}
