package org.beamk8s.runner;

/**
 * How many elements a bundle may have, so that the Python harness works on it for no longer than a
 * given time, however long it takes for one.
 *
 * <p>An operator hands elements to the harness much faster than that works, and then waits for the
 * bundle's end: no checkpoint, no watermark and no timer passes it meanwhile. What a bundle costs
 * whatever it holds (a DoFn that writes in {@code finish_bundle}) is told from what each element
 * costs by two bundles of different size: smaller ones would not end sooner, so a bundle may take
 * four times as long as that.
 */
final class BundleSize {
  private static final double DIFFERENT = 1.5;

  private final long most;
  private final long targetNanos;
  private long elements = 1;

  private long lastHad;
  private long lastNanos;
  private long otherHad; // of the last one of another size
  private long otherNanos;

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
   * waitedNanos} of it waiting for its end.
   */
  void finished(long had, long nanos, long waitedNanos) {
    boolean full = had >= elements;
    boolean held = waitedNanos > nanos / 4;
    if (had == 0 || !(full || held)) {
      return; // of timers only, or open for long because little came in
    }
    if (Math.max(had, lastHad) >= DIFFERENT * Math.min(had, lastHad)) {
      otherHad = lastHad;
      otherNanos = lastNanos;
    }
    lastHad = had;
    lastNanos = nanos;
    boolean comparable = otherHad > 0 && otherHad != had;
    double each =
        comparable
            ? Math.max(0, (double) (nanos - otherNanos) / (had - otherHad))
            : (double) nanos / had;
    double always = Math.max(0, nanos - each * had);
    double goal = Math.max(targetNanos, 4 * always);
    if (nanos > goal && held && comparable) {
      elements = Math.max(1, Math.min(Math.min(had, elements), (long) ((goal - always) / each)));
    } else if (full && (nanos <= goal / 2 || !comparable)) {
      elements = Math.min(most, elements * 2);
    }
  }
}
