package org.beamk8s.runner.kafka;

import static org.junit.Assert.assertEquals;

import org.junit.Test;

/** Against the rate and the size with which a backlog was read. tests/unit/test_backlog.py alike. */
public class PartitionBacklogTest {
  private long newerEnd = PartitionBacklog.UNKNOWN;
  private final PartitionBacklog backlog = new PartitionBacklog(() -> newerEnd);
  private long now;

  /** Once a second so many records of 10 bytes, until {@code left} are left. */
  private void read(int rate, long left, int reads) {
    for (int i = reads - 1; i >= 0; i--) {
      now += 1000;
      backlog.add(0, left + (long) i * rate, rate, 10L * rate, now);
    }
  }

  @Test
  public void aSteadyReaderTellsBytesAndTime() {
    read(50, 10_000, 20);
    assertEquals(10_000, backlog.records());
    assertEquals(100_000, backlog.bytes());
    assertEquals(200_000, backlog.millis(), 1);
    assertEquals(200, backlog.seconds(), 1);
  }

  @Test
  public void anIdleTimeSaysNothingAboutHowFastRecordsAreRead() {
    read(50, 0, 20);
    assertEquals(0, backlog.seconds());
    now += 3_600_000;
    backlog.add(0, 500, 1, 10, now);
    assertEquals(10_000, backlog.millis(), 1);
  }

  @Test
  public void whatIsUnknownIsTold() {
    assertEquals(PartitionBacklog.UNKNOWN, backlog.records());
    backlog.add(0, 7, 0, 0, 1);
    assertEquals(7, backlog.records());
    assertEquals(PartitionBacklog.UNKNOWN, backlog.bytes());
    assertEquals(PartitionBacklog.UNKNOWN, backlog.seconds());
    backlog.add(0, PartitionBacklog.UNKNOWN, 1, 10, 2);
    assertEquals(PartitionBacklog.UNKNOWN, backlog.bytes());
  }

  @Test
  public void whatIsWrittenWhileTheReaderWaitsIsTold() {
    read(50, 100, 20);
    newerEnd = 300;
    assertEquals(300, backlog.records());
    assertEquals(3000, backlog.bytes());
    assertEquals(6, backlog.seconds());
  }
}
