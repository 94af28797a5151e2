package org.apache.flink.connector.kafka.source.reader;

import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.apache.flink.connector.base.source.reader.RecordsWithSplitIds;
import org.apache.flink.connector.base.source.reader.splitreader.SplitReader;
import org.apache.flink.connector.base.source.reader.synchronization.FutureCompletingBlockingQueue;
import org.apache.flink.connector.kafka.source.reader.fetcher.KafkaSourceFetcherManager;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetCommitCallback;
import org.apache.kafka.common.TopicPartition;

/**
 * The connector's fetcher manager, that waits for the last commit of a bounded read.
 *
 * <p>Offsets are committed by the thread that fetches. When everything is read, the checkpoint that
 * brings the last commit is also what the task waits for to end: it closes the reader at once, and
 * with it the thread that has not yet committed. So the task is held here, until there is an answer
 * or {@link PositionTrackingSplitReader#COMMIT_TIMEOUT} has passed.
 */
public final class LastCommitFetcherManager extends KafkaSourceFetcherManager {
  public LastCommitFetcherManager(
      FutureCompletingBlockingQueue<RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>>> queue,
      Supplier<SplitReader<ConsumerRecord<byte[], byte[]>, KafkaPartitionSplit>> readers) {
    super(queue, readers, finished -> {});
  }

  @Override
  public void commitOffsets(
      Map<TopicPartition, OffsetAndMetadata> offsets, OffsetCommitCallback callback) {
    boolean isLast = maybeShutdownFinishedFetchers() && !offsets.isEmpty();
    CountDownLatch answered = new CountDownLatch(1);
    super.commitOffsets(
        offsets,
        (committed, failure) -> {
          callback.onComplete(committed, failure);
          answered.countDown();
        });
    if (isLast) {
      await(answered);
    }
  }

  /** In vain, the connector has logged why, or the broker does not even connect. */
  private static void await(CountDownLatch answered) {
    try {
      answered.await(
          PositionTrackingSplitReader.COMMIT_TIMEOUT.toMillis(), TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt(); // the task is cancelled
    }
  }
}
