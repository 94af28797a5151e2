package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BiConsumer;
import org.apache.flink.api.connector.source.SourceEvent;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumState;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;

/**
 * The connector's enumerator, that also answers a reader whether the first assignment is over.
 *
 * <p>Until then every reader must hold the watermark: it would run past the partitions that are
 * about to be assigned, and all their older records would be dropped as late. Those are a new
 * job's, and those that a topic got while a restored job did not run. The connector tells the
 * reader nothing (there may always be another partition), so it asks. The answer cannot overtake an
 * assignment, both take the same way.
 */
final class AnsweringEnumerator
    implements SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> {
  private final SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> enumerator;
  private final SplitEnumeratorContext<KafkaPartitionSplit> context;

  /** What the enumerator began in the background and did not end once: the first discovery. */
  private int begun;

  /** {@code enumerator} makes the connector's, for the context that it is given. */
  AnsweringEnumerator(
      SplitEnumeratorContext<KafkaPartitionSplit> context, EnumeratorFactory enumerator)
      throws IOException {
    this.enumerator = enumerator.create(counting(context));
    this.context = context;
  }

  interface EnumeratorFactory {
    SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> create(
        SplitEnumeratorContext<KafkaPartitionSplit> context) throws IOException;
  }

  /** The context, counting calls in the background from their begin to their first end. */
  @SuppressWarnings("unchecked")
  private SplitEnumeratorContext<KafkaPartitionSplit> counting(
      SplitEnumeratorContext<KafkaPartitionSplit> context) {
    return (SplitEnumeratorContext<KafkaPartitionSplit>)
        Proxy.newProxyInstance(
            AnsweringEnumerator.class.getClassLoader(),
            new Class<?>[] {SplitEnumeratorContext.class},
            (proxy, method, arguments) -> {
              if (method.getName().equals("callAsync")) {
                begun++;
                arguments[1] = counting((BiConsumer<Object, Throwable>) arguments[1]);
              }
              try {
                return method.invoke(context, arguments);
              } catch (InvocationTargetException e) {
                throw e.getCause();
              }
            });
  }

  private BiConsumer<Object, Throwable> counting(BiConsumer<Object, Throwable> handler) {
    AtomicBoolean ended = new AtomicBoolean();
    return (result, error) -> {
      handler.accept(result, error);
      if (!ended.getAndSet(true)) {
        begun--;
      }
    };
  }

  /** "Do I know all my partitions?" */
  static final class AllAssignedQuestion implements SourceEvent {
    private static final long serialVersionUID = 1L;
  }

  /** "All partitions known are assigned." */
  static final class AllAssignedAnswer implements SourceEvent {
    private static final long serialVersionUID = 1L;
  }

  @Override
  public void handleSourceEvent(int subtask, SourceEvent event) {
    if (event instanceof AllAssignedQuestion && isAllAssigned()) {
      context.sendEventToSourceReader(subtask, new AllAssignedAnswer());
    }
  }

  private boolean isAllAssigned() {
    if (begun > 0) {
      return false; // a restored enumerator too first looks for new partitions
    }
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
