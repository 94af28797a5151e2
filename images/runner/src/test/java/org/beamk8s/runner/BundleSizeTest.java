package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.Random;
import org.junit.Test;

public class BundleSizeTest {
  private static final long MS = 1_000_000;
  private static final long TARGET = 1000 * MS;
  private static final int MOST = 20_000;

  private final Random random = new Random(1);
  private BundleSize size = new BundleSize(MOST, TARGET);

  /** A full bundle, that the operator hands over at once; how long the harness needs. */
  private long full(double always, double each, double noise) {
    double exact = always + each * size.elements();
    long nanos = (long) (exact * (1 + noise * (2 * random.nextDouble() - 1)));
    size.finished(size.elements(), nanos, nanos);
    return nanos;
  }

  private void warmUp(double always, double each, double noise) {
    for (int i = 0; i < 100; i++) {
      full(always, each, noise);
    }
  }

  @Test
  public void noBundleTakesMuchLongerThanTheTargetHoweverSlowAnElementIs() {
    for (double noise : new double[] {0, 0.2}) {
      for (double each : new double[] {1e3, 1e4, 1e5, 1e6, 1e7, 1e8}) {
        size = new BundleSize(MOST, TARGET);
        for (int i = 0; i < 500; i++) {
          long nanos = full(2 * MS, each, noise);
          assertTrue(each + ": " + nanos, nanos <= 2.5 * TARGET);
        }
        assertTrue(each + ": " + size.elements(), size.elements() >= Math.min(MOST, TARGET / each / 5));
      }
    }
  }

  @Test
  public void whatABundleCostsAnywayIsNoReasonForSmallOnes() {
    for (double noise : new double[] {0, 0.2}) {
      for (double always : new double[] {500 * MS, 1500 * MS, 10_000 * MS}) {
        for (double each : new double[] {1e3, 1e5, 1e7}) {
          size = new BundleSize(MOST, TARGET);
          warmUp(always, each, noise);
          double elements = 0;
          double nanos = 0;
          for (int i = 0; i < 200; i++) {
            elements += size.elements();
            nanos += full(always, each, noise);
          }
          double best = Math.max(1, MOST / (always + each * MOST) * 1e9);
          double rate = elements / nanos * 1e9;
          String what = always + " + " + each + " with " + noise + ": " + rate + " of " + best;
          assertTrue(what, rate >= 0.3 * best || nanos / 200 >= TARGET / 3);
          assertTrue(what, rate >= 0.2 / each * 1e9 || size.elements() >= MOST / 4);
        }
      }
    }
  }

  @Test
  public void anElementThatTakesAMinuteIsABundle() {
    warmUp(0, 60 * TARGET, 0);
    assertEquals(1, size.elements());
  }

  @Test
  public void aStepThatBecomesSlowHasSmallBundlesSoonAndLargeOnesWhenItIsFastAgain() {
    warmUp(2 * MS, 1e3, 0);
    assertEquals(MOST, size.elements());
    for (int i = 0; i < 4; i++) {
      full(2 * MS, 1e6, 0);
    }
    assertTrue(full(2 * MS, 1e6, 0) <= 1.1 * TARGET);
    assertTrue(nanosUntilLargest(2 * MS, 1e3) <= 2 * TARGET);
  }

  private long nanosUntilLargest(double always, double each) {
    long nanos = 0;
    while (size.elements() < MOST) {
      nanos += full(always, each, 0);
    }
    return nanos;
  }

  @Test
  public void whatASlowDownstreamTakesAtOnceMakesNoLargeBundles() {
    for (int at = 0; at < 30; at++) {
      for (int room = 100; room >= size.elements(); room -= (int) size.elements()) {
        full(10 * MS, 0, 0); // there is room
      }
      long nanos = full(0, 100 * MS, 0); // there is none
      assertTrue(at + ": " + nanos, nanos <= 5 * TARGET);
    }
  }

  @Test
  public void aStallIsForgotten() {
    warmUp(2 * MS, 1e3, 0);
    size.finished(MOST, 30 * TARGET, 30 * TARGET);
    assertTrue(nanosUntilLargest(2 * MS, 1e3) <= 2 * TARGET);
  }

  @Test
  public void bundlesThatTimeEndsOrNothingCameForChangeNothing() {
    warmUp(2 * MS, 1e3, 0);
    size.finished(3, 1010 * MS, 2 * MS);
    size.finished(0, 1500 * MS, 1500 * MS);
    assertEquals(MOST, size.elements());
  }
}
