package org.beamk8s.runner.kafka;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import org.junit.Test;

public class PartitionWatermarksTest {
  private static final long OUT_OF_ORDERNESS = 10;
  private static final long IDLE_TIMEOUT = 100;

  private final PartitionWatermarks<String> watermarks =
      new PartitionWatermarks<>(OUT_OF_ORDERNESS, IDLE_TIMEOUT);

  @Test
  public void theSlowestPartitionDecides() {
    add("a", "b");
    watermarks.record("a", 5000);
    watermarks.record("b", 3000);
    watermarks.record("b", 2000);
    watermarks.advance();
    assertEquals(3000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  @Test
  public void aPartitionNotHeardOfHoldsTheWatermarkHoweverLong() {
    add("a", "b");
    watermarks.record("a", 5000);
    watermarks.confirmed(1_000_000);
    watermarks.advance();
    assertEquals(PartitionWatermarks.NONE, watermarks.watermark());
    assertFalse(watermarks.isIdle());
  }

  @Test
  public void aBacklogHoldsTheWatermarkHoweverLong() {
    add("a", "b");
    watermarks.record("a", 5000);
    watermarks.record("b", 1000);
    watermarks.caughtUp("b", false, 0);
    watermarks.behind("b");
    watermarks.confirmed(1_000_000);
    watermarks.advance();
    assertEquals(1000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  @Test
  public void aPartitionThatNeverHeldARecordIsLeftOutAtOnce() {
    add("a", "empty");
    watermarks.record("a", 5000);
    watermarks.caughtUp("empty", true, 7);
    watermarks.confirmed(7);
    watermarks.advance();
    assertEquals(5000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  @Test
  public void aPartitionThatHeldRecordsIsLeftOutAfterTheIdleTimeout() {
    add("a", "quiet");
    watermarks.record("a", 5000);
    watermarks.caughtUp("quiet", false, 7);
    watermarks.caughtUp("quiet", false, 50); // since 7, not since 50
    watermarks.confirmed(7 + IDLE_TIMEOUT - 1);
    watermarks.advance();
    assertEquals(PartitionWatermarks.NONE, watermarks.watermark());
    watermarks.confirmed(7 + IDLE_TIMEOUT);
    watermarks.advance();
    assertEquals(5000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  /** Its broker may be gone: the records that another one took meanwhile would be late. */
  @Test
  public void aPartitionIsNotLeftOutBecauseNothingIsHeardOfIt() {
    add("a", "quiet");
    watermarks.record("a", 5000);
    watermarks.caughtUp("quiet", false, 7);
    watermarks.caughtUp("quiet", false, 7 + 10 * IDLE_TIMEOUT);
    watermarks.advance();
    assertEquals(PartitionWatermarks.NONE, watermarks.watermark());
  }

  @Test
  public void confirmationIsNeededForWhatIsAboutToBeIdleAndNowAndThenWhileItIs() {
    add("a");
    assertFalse(watermarks.needsConfirmation(1_000_000));
    watermarks.caughtUp("a", false, 7);
    assertFalse(watermarks.needsConfirmation(7 + IDLE_TIMEOUT - 1));
    assertTrue(watermarks.needsConfirmation(7 + IDLE_TIMEOUT));
    watermarks.confirmed(200);
    watermarks.advance();
    assertTrue(watermarks.isIdle());
    assertFalse(watermarks.needsConfirmation(5199));
    assertTrue(watermarks.needsConfirmation(5200));
    watermarks.behind("a");
    assertFalse(watermarks.needsConfirmation(5200));
  }

  @Test
  public void withoutATimeoutOnlyWhatNeverHeldARecordIsLeftOut() {
    PartitionWatermarks<String> patient = new PartitionWatermarks<>(OUT_OF_ORDERNESS, 0);
    patient.add("a");
    patient.add("quiet");
    patient.add("empty");
    patient.record("a", 5000);
    patient.caughtUp("empty", true, 0);
    patient.caughtUp("quiet", false, 0);
    patient.confirmed(1_000_000);
    patient.advance();
    assertEquals(PartitionWatermarks.NONE, patient.watermark());
    patient.remove("quiet");
    patient.confirmed(1_000_000);
    patient.advance();
    assertEquals(5000 - OUT_OF_ORDERNESS - 1, patient.watermark());
  }

  @Test
  public void whenAllAreIdleTheWatermarkStays() {
    add("a", "b");
    watermarks.record("a", 5000);
    watermarks.record("b", 3000);
    watermarks.caughtUp("a", false, 0);
    watermarks.caughtUp("b", false, 0);
    watermarks.confirmed(10);
    watermarks.advance();
    assertFalse(watermarks.isIdle());
    watermarks.confirmed(IDLE_TIMEOUT);
    watermarks.advance();
    assertTrue(watermarks.isIdle());
    assertFalse(watermarks.isWaiting());
    assertEquals(3000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  @Test
  public void aRecordEndsIdlenessAtOnce() {
    add("a");
    watermarks.caughtUp("a", true, 0);
    watermarks.advance();
    assertTrue(watermarks.isIdle());
    watermarks.record("a", 1);
    assertFalse(watermarks.isIdle());
    assertTrue(watermarks.isWaiting());
  }

  @Test
  public void aNewPartitionHoldsButNeverPullsBack() {
    add("a");
    watermarks.record("a", 5000);
    watermarks.advance();
    add("new");
    watermarks.record("a", 9000);
    watermarks.advance();
    assertEquals(5000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
    watermarks.record("new", 10);
    watermarks.advance();
    assertEquals(5000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  @Test
  public void aFinishedPartitionHoldsNobody() {
    add("a", "b");
    watermarks.record("a", 5000);
    watermarks.remove("b");
    watermarks.caughtUp("b", false, 0); // told after it finished
    watermarks.behind("b");
    watermarks.advance();
    assertEquals(5000 - OUT_OF_ORDERNESS - 1, watermarks.watermark());
  }

  @Test
  public void noPartitionIsIdle() {
    assertTrue(watermarks.isIdle());
    watermarks.advance();
    assertTrue(watermarks.isIdle());
    assertEquals(PartitionWatermarks.NONE, watermarks.watermark());
  }

  /** Random histories against an oracle that works out each answer from the whole history. */
  @Test
  public void agreesWithTheOracleOnRandomHistories() {
    for (int seed = 0; seed < 2000; seed++) {
      Random random = new Random(seed);
      PartitionWatermarks<Integer> watermarks =
          new PartitionWatermarks<>(OUT_OF_ORDERNESS, IDLE_TIMEOUT);
      Oracle oracle = new Oracle();
      long now = 0;
      for (int step = 0; step < 80; step++) {
        now += random.nextInt(40);
        int key = random.nextInt(4);
        boolean assigned = oracle.assigned().contains(key);
        switch (random.nextInt(9)) {
          case 0:
            if (!assigned) {
              watermarks.add(key);
              oracle.history.add(new long[] {Oracle.ADD, key, 0});
            }
            break;
          case 1:
            if (random.nextInt(4) == 0) {
              watermarks.remove(key);
              oracle.history.add(new long[] {Oracle.REMOVE, key, 0});
            }
            break;
          case 2:
            watermarks.behind(key);
            oracle.history.add(new long[] {Oracle.BEHIND, key, 0});
            break;
          case 3:
            watermarks.confirmed(now);
            oracle.history.add(new long[] {Oracle.CONFIRMED, Oracle.ALL, now});
            break;
          case 4:
          case 5:
            boolean never = random.nextInt(5) == 0;
            watermarks.caughtUp(key, never, now);
            oracle.history.add(new long[] {never ? Oracle.NEVER : Oracle.CAUGHT_UP, key, now});
            break;
          default:
            if (assigned) {
              long timestamp = random.nextInt(1000);
              watermarks.record(key, timestamp);
              oracle.history.add(new long[] {Oracle.RECORD, key, timestamp});
            }
        }
        watermarks.advance();
        oracle.advance();
        assertEquals("seed " + seed + " step " + step, oracle.watermark, watermarks.watermark());
        assertEquals("seed " + seed + " step " + step, oracle.idle, watermarks.isIdle());
        assertEquals(!oracle.idle, watermarks.isWaiting());
      }
    }
  }

  private void add(String... keys) {
    for (String key : keys) {
      watermarks.add(key);
    }
  }

  private static final class Oracle {
    static final long ADD = 0;
    static final long REMOVE = 1;
    static final long RECORD = 2;
    static final long BEHIND = 3;
    static final long CAUGHT_UP = 4;
    static final long NEVER = 5;
    static final long CONFIRMED = 6;
    static final long ALL = -1;

    final List<long[]> history = new ArrayList<>();
    long watermark = PartitionWatermarks.NONE;
    boolean idle;

    Set<Integer> assigned() {
      Set<Integer> keys = new HashSet<>();
      for (long[] event : history) {
        if (event[0] == ADD) {
          keys.add((int) event[1]);
        } else if (event[0] == REMOVE) {
          keys.remove((int) event[1]);
        }
      }
      return keys;
    }

    /** The partition's events since it was last added. */
    private List<long[]> life(int key) {
      List<long[]> life = new ArrayList<>();
      for (long[] event : history) {
        if (event[1] == key || event[1] == ALL) {
          if (event[0] == ADD) {
            life.clear();
          } else {
            life.add(event);
          }
        }
      }
      return life;
    }

    private boolean isIdle(int key) {
      boolean never = false;
      long since = -1; // when the unbroken run of "caught up" at the end began, and as yet lasts
      long until = -1;
      for (long[] event : life(key)) {
        if (event[0] <= BEHIND) {
          since = -1;
        } else if (event[0] == CONFIRMED) {
          until = event[2];
        } else {
          never = event[0] == NEVER;
          if (since < 0) {
            since = event[2];
            until = since;
          }
        }
      }
      return since >= 0 && (never || until - since >= IDLE_TIMEOUT);
    }

    void advance() {
      idle = true;
      long least = Long.MAX_VALUE;
      for (int key : assigned()) {
        if (isIdle(key)) {
          continue;
        }
        idle = false;
        long own = Long.MIN_VALUE;
        for (long[] event : life(key)) {
          if (event[0] == RECORD) {
            own = Math.max(own, event[2] - OUT_OF_ORDERNESS - 1);
          }
        }
        least = Math.min(least, own);
      }
      if (!idle) {
        watermark = Math.max(watermark, least);
      }
    }
  }
}
