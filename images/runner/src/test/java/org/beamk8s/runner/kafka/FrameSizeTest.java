package org.beamk8s.runner.kafka;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import org.junit.Test;

public class FrameSizeTest {
  private final FrameSize size = new FrameSize(500);
  private double nowMs;

  /** Full frames of a backlog to a step that does so many records a second, for so long. */
  private void read(double rate, double seconds) {
    double end = nowMs + 1000 * seconds;
    while (nowMs < end) {
      int records = size.records();
      size.emitted(records, (long) nowMs);
      nowMs += 1000 * records / rate;
    }
  }

  @Test
  public void aFrameIsAboutATwentiethOfASecond() {
    assertEquals(1, size.records());
    for (double rate : new double[] {100_000, 5_000, 200, 1, 0.1, 2_000, 200_000}) {
      read(rate, Math.max(3, 30 / rate));
      double seconds = size.records() / rate;
      assertTrue(rate + ": " + size.records(), size.records() == 1 || seconds <= 0.11);
      assertTrue(rate + ": " + size.records(), size.records() >= Math.min(500, (int) (rate / 25)));
    }
  }

  @Test
  public void aReadThatNothingHoldsUpHasFullFramesAtOnce() {
    read(500_000, 0.05);
    assertEquals(500, size.records());
  }
}
