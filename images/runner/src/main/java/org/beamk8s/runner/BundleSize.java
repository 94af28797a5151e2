package org.beamk8s.runner;

/**
 * How many elements, or bytes of them, a bundle may have, so that the Python harness works on it for
 * no longer than a given time, however long it takes for one.
 *
 * <p>An operator hands elements to the harness much faster than that works, and then waits for the
 * bundle's end: no checkpoint, no watermark and no timer passes it meanwhile. What a bundle costs
 * whatever it holds (a DoFn that writes in {@code finish_bundle}) is told from what each element
 * costs by two bundles of different size: smaller ones would not end sooner, so a bundle may take
 * four times as long as that.
 *
 * <p>What comes out of a bundle goes downstream before it ends. A downstream that is slow takes some
 * at once now and then, so that a few bundles are quick, and the next one waits for seconds. So no
 * bundle grows beyond what was done in such a time before, over the last seconds of work.
 */
final class BundleSize {
  private static final double DIFFERENT = 1.5;
  private static final double REMEMBERED = 5; // target times of work
  private static final double MORE = 1.5;

  private final long most;
  private final long targetNanos;
  private long elements = 1;

  private long lastHad;
  private long lastNanos;
  private long otherHad; // of the last one of another size
  private long otherNanos;

  private double perNano; // elements, as remembered

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
    double kept = Math.exp(-nanos / (REMEMBERED * targetNanos));
    perNano = perNano * kept + (double) had / nanos * (1 - kept);
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
      elements = Math.min(most, Math.max(elements, Math.min(elements * 2, usual(goal))));
    }
  }

  /** A little more than is done in a time; at least two, as of one size nothing can be told. */
  private long usual(double nanos) {
    return Math.max(2, (long) (MORE * perNano * nanos));
  }
}
