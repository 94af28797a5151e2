package org.beamk8s.runner.kafka;

/**
 * How many records a frame may have: what is read in a twentieth of a second, so that a frame is not
 * worked on for longer than that by a step that holds the read up. A bundle has whole frames, and
 * must end before a checkpoint.
 */
class FrameSize {
  private static final long PERIOD_MS = 500;
  private static final long FRAMES_OF_A_PERIOD = 10;

  private final int most;
  private long startedAt = Long.MIN_VALUE / 2;
  private long records;
  private long before;

  FrameSize(int most) {
    this.most = most;
  }

  int records() {
    return (int) Math.max(1, Math.min(most, Math.max(records, before) / FRAMES_OF_A_PERIOD));
  }

  /** A frame of so many records was emitted. */
  void emitted(int count, long nowMs) {
    long passed = nowMs - startedAt;
    if (passed >= PERIOD_MS) {
      before = records * PERIOD_MS / passed;
      records = 0;
      startedAt = nowMs;
    }
    records += count;
  }
}
