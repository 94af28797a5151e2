package org.beamk8s.runner;

/**
 * How many elements a bundle may have, so that the Python harness works on it for no longer than a
 * given time, however long it takes for one.
 *
 * <p>An operator hands elements to the harness much faster than that works, and then waits for the
 * bundle's end: no checkpoint, no watermark and no timer passes it meanwhile. So the size is halved
 * or more when a bundle took too long, and doubled when a full one took less than half of the time.
 */
final class BundleSize {
  private final long most;
  private final long targetNanos;
  private long elements = 1;

  /** {@code most} elements at most; bundles that take up to {@code targetNanos}. */
  BundleSize(long most, long targetNanos) {
    this.most = most;
    this.targetNanos = targetNanos;
  }

  long elements() {
    return elements;
  }

  /**
   * Learns from a bundle of so many elements that was open for {@code nanos}, the last {@code
   * waitedNanos} of it waiting for its end. One that was open for long because little came in does
   * not wait for long.
   */
  void finished(long had, long nanos, long waitedNanos) {
    if (had == 0) {
      return; // of timers only
    }
    if (nanos > targetNanos && waitedNanos > nanos / 4) {
      elements = Math.max(1, (long) (Math.min(had, elements) * ((double) targetNanos / nanos)));
    } else if (had >= elements && nanos <= targetNanos / 2) {
      elements = Math.min(most, elements * 2);
    }
  }
}
