package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import org.junit.Test;

public class BundleSizeTest {
  private static final long MS = 1_000_000;
  private static final long TARGET = 1000 * MS;
  private static final long BUNDLE = 2 * MS;

  private final BundleSize size = new BundleSize(20_000, TARGET);

  /** A full bundle, that the harness needs so long for; the operator hands it over at once. */
  private long full(long nanosOfAnElement) {
    long nanos = BUNDLE + size.elements() * nanosOfAnElement;
    size.finished(size.elements(), nanos, nanos);
    return nanos;
  }

  @Test
  public void noBundleTakesMuchLongerThanTheTargetHoweverSlowTheStepIs() {
    for (long micros : new long[] {1, 10, 100, 1_000, 10_000, 100_000}) {
      for (int i = 0; i < 50; i++) {
        long nanos = full(micros * 1000);
        assertTrue(micros + " us: " + nanos, nanos <= 2 * TARGET);
      }
      long elements = size.elements();
      assertTrue(micros + " us: " + elements, elements >= Math.min(20_000, 400_000 / micros));
      for (int i = 0; i < 20; i++) {
        full(1_000); // fast again
      }
      assertEquals(20_000, size.elements());
      while (size.elements() > 1) {
        full(2 * TARGET);
      }
    }
  }

  @Test
  public void oneElementThatTakesForEverIsABundle() {
    full(60 * TARGET);
    assertEquals(1, size.elements());
  }

  @Test
  public void aStepThatBecomesSlowHasSmallBundlesAtOnce() {
    for (int i = 0; i < 20; i++) {
      full(1_000);
    }
    full(MS); // 20 s
    assertTrue(full(MS) <= TARGET + BUNDLE);
  }

  @Test
  public void bundlesThatTimeEndsOrNothingCameForChangeNothing() {
    for (int i = 0; i < 20; i++) {
      full(1_000);
    }
    size.finished(3, 1010 * MS, 2 * MS);
    size.finished(0, 1500 * MS, 1500 * MS);
    size.finished(10, 300 * MS, 300 * MS);
    assertEquals(20_000, size.elements());
  }
}
