package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.util.List;
import org.apache.flink.api.connector.source.SourceEvent;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumState;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;

/**
 * The connector's enumerator, that also answers a reader which has no partition whether the first
 * assignment is over.
 *
 * <p>Until then such a reader must hold the watermark: called idle too early, it would let other
 * readers' watermarks run past the partitions it is about to get, and all their older records would
 * be dropped as late. The connector tells it nothing (there may always be another partition), so it
 * asks. The answer cannot overtake an assignment, both take the same way.
 */
final class AnsweringEnumerator
    implements SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> {
  private final SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> enumerator;
  private final SplitEnumeratorContext<KafkaPartitionSplit> context;

  AnsweringEnumerator(
      SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> enumerator,
      SplitEnumeratorContext<KafkaPartitionSplit> context) {
    this.enumerator = enumerator;
    this.context = context;
  }

  /** "I have no partition: will I get one?" */
  static final class NoPartitionQuestion implements SourceEvent {
    private static final long serialVersionUID = 1L;
  }

  /** "All partitions known are assigned." */
  static final class AllAssignedAnswer implements SourceEvent {
    private static final long serialVersionUID = 1L;
  }

  @Override
  public void handleSourceEvent(int subtask, SourceEvent event) {
    if (event instanceof NoPartitionQuestion && isAllAssigned()) {
      context.sendEventToSourceReader(subtask, new AllAssignedAnswer());
    }
  }

  private boolean isAllAssigned() {
    try {
      KafkaSourceEnumState state = enumerator.snapshotState(-1); // reads only
      return state.initialDiscoveryFinished() && state.unassignedInitialPartitions().isEmpty();
    } catch (Exception e) {
      throw new IllegalStateException(e);
    }
  }

  @Override
  public void start() {
    enumerator.start();
  }

  @Override
  public void handleSplitRequest(int subtask, String host) {
    enumerator.handleSplitRequest(subtask, host);
  }

  @Override
  public void addSplitsBack(List<KafkaPartitionSplit> splits, int subtask) {
    enumerator.addSplitsBack(splits, subtask);
  }

  @Override
  public void addReader(int subtask) {
    enumerator.addReader(subtask);
  }

  @Override
  public KafkaSourceEnumState snapshotState(long checkpointId) throws Exception {
    return enumerator.snapshotState(checkpointId);
  }

  @Override
  public void notifyCheckpointComplete(long checkpointId) throws Exception {
    enumerator.notifyCheckpointComplete(checkpointId);
  }

  @Override
  public void notifyCheckpointAborted(long checkpointId) throws Exception {
    enumerator.notifyCheckpointAborted(checkpointId);
  }

  @Override
  public void close() throws IOException {
    enumerator.close();
  }
}
