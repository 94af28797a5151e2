package org.apache.flink.connector.kafka.source.reader;

import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.lang.reflect.Proxy;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.connector.base.source.reader.synchronization.FutureCompletingBlockingQueue;
import org.apache.flink.connector.kafka.source.metrics.KafkaSourceReaderMetrics;
import org.apache.flink.metrics.groups.UnregisteredMetricsGroup;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetCommitCallback;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.junit.Test;

public class LastCommitFetcherManagerTest {
  private final CountDownLatch asked = new CountDownLatch(1);
  private final CountDownLatch answer = new CountDownLatch(1);

  /** The task closes the reader as soon as the call returns, and so would lose the commit. */
  @Test
  public void whereAllIsReadTheCallReturnsWhenTheOffsetsAreCommitted() throws Exception {
    LastCommitFetcherManager manager =
        new LastCommitFetcherManager(new FutureCompletingBlockingQueue<>(), SlowToCommit::new);
    AtomicBoolean committed = new AtomicBoolean();
    Thread task =
        new Thread(
            () ->
                manager.commitOffsets(
                    Map.of(new TopicPartition("t", 0), new OffsetAndMetadata(7)),
                    (offsets, failure) -> committed.set(failure == null)));
    task.start();
    assertTrue(asked.await(10, TimeUnit.SECONDS));
    task.join(200);
    assertTrue(task.isAlive());
    assertFalse(committed.get());
    answer.countDown();
    task.join(10_000);
    assertFalse(task.isAlive());
    assertTrue(committed.get());
    manager.close(10_000);
  }

  private final class SlowToCommit extends KafkaPartitionSplitReader {
    SlowToCommit() {
      super(
          properties(),
          (SourceReaderContext)
              Proxy.newProxyInstance(
                  SourceReaderContext.class.getClassLoader(),
                  new Class<?>[] {SourceReaderContext.class},
                  (proxy, method, arguments) -> 0), // all it asks for is the subtask's index
          new KafkaSourceReaderMetrics(
              UnregisteredMetricsGroup.createSourceReaderMetricGroup()));
    }

    @Override
    public void notifyCheckpointComplete(
        Map<TopicPartition, OffsetAndMetadata> offsets, OffsetCommitCallback callback) {
      asked.countDown();
      try {
        answer.await();
      } catch (InterruptedException e) {
        throw new AssertionError(e);
      }
      callback.onComplete(offsets, null);
    }
  }

  private static Properties properties() {
    Properties properties = new Properties();
    properties.setProperty("bootstrap.servers", "127.0.0.1:1");
    properties.setProperty("key.deserializer", ByteArrayDeserializer.class.getName());
    properties.setProperty("value.deserializer", ByteArrayDeserializer.class.getName());
    return properties;
  }
}
