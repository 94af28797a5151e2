package org.beamk8s.runner.kafka;

import static org.junit.Assert.assertEquals;

import java.lang.reflect.Proxy;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashSet;
import java.util.function.BiConsumer;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumState;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.beamk8s.runner.kafka.AnsweringEnumerator.AllAssignedQuestion;
import org.junit.Test;

/** Over an enumerator that finds partitions in two background steps, as Flink's does. */
public class AnsweringEnumeratorTest {
  private final Deque<BiConsumer<Object, Throwable>> background = new ArrayDeque<>();
  private int answers;

  /** Its state says that the initial discovery is over, but partitions may be new since. */
  @Test
  public void aRestoredEnumeratorTellsNothingBeforeItLookedForNewPartitions() throws Exception {
    AnsweringEnumerator enumerator = new AnsweringEnumerator(context(), this::restored);
    enumerator.start();
    for (int step = 0; step < 2; step++) {
      enumerator.handleSourceEvent(0, new AllAssignedQuestion());
      assertEquals(0, answers);
      background.poll().accept(null, null);
    }
    enumerator.handleSourceEvent(0, new AllAssignedQuestion());
    assertEquals(1, answers);
  }

  @SuppressWarnings("unchecked")
  private SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> restored(
      SplitEnumeratorContext<KafkaPartitionSplit> context) {
    return proxy(
        SplitEnumerator.class,
        (name, arguments) -> {
          if (name.equals("start")) {
            context.callAsync(
                () -> null, (found, error) -> context.callAsync(() -> null, (r, e) -> {}), 0, 10);
          }
          return name.equals("snapshotState")
              ? new KafkaSourceEnumState(new HashSet<>(), new HashSet<>(), true)
              : null;
        });
  }

  @SuppressWarnings("unchecked")
  private SplitEnumeratorContext<KafkaPartitionSplit> context() {
    return proxy(
        SplitEnumeratorContext.class,
        (name, arguments) -> {
          if (name.equals("callAsync")) {
            background.add((BiConsumer<Object, Throwable>) arguments[1]);
          } else if (name.equals("sendEventToSourceReader")) {
            answers++;
          }
          return null;
        });
  }

  private interface Calls {
    Object call(String name, Object[] arguments) throws Exception;
  }

  private static <T> T proxy(Class<T> type, Calls calls) {
    return type.cast(
        Proxy.newProxyInstance(
            type.getClassLoader(),
            new Class<?>[] {type},
            (proxy, method, arguments) -> calls.call(method.getName(), arguments)));
  }
}
