package org.beamk8s.runner.kafka;

import static org.junit.Assert.assertEquals;

import org.apache.kafka.common.TopicPartition;
import org.junit.Test;

public class StalledPartitionsTest {
  private static final TopicPartition A = new TopicPartition("t", 0);
  private static final TopicPartition B = new TopicPartition("t", 1);

  private final StalledPartitions stalled = new StalledPartitions();

  @Test
  public void thePartitionThatWaitsLongestIsTold() {
    assertEquals(0, stalled.seconds(0));
    stalled.behind(A, 0);
    stalled.behind(B, 5_000);
    assertEquals(10, stalled.seconds(10_000));
    stalled.read(A, 10_000); // some, not all
    stalled.behind(A, 11_000);
    assertEquals(7, stalled.seconds(12_000));
    stalled.caughtUp(B);
    assertEquals(2, stalled.seconds(12_000));
    stalled.caughtUp(A);
    assertEquals(0, stalled.seconds(99_000));
  }

  @Test
  public void recordsOfAPartitionThatIsCaughtUpMakeItWaitForNothing() {
    stalled.behind(A, 0);
    stalled.caughtUp(A);
    stalled.read(A, 1_000);
    assertEquals(0, stalled.seconds(60_000));
  }
}
