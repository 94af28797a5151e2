package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.util.Map;
import org.apache.flink.runtime.throwable.ThrowableAnnotation;
import org.apache.flink.runtime.throwable.ThrowableType;
import org.apache.kafka.clients.consumer.LogTruncationException;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/**
 * A partition no longer has the records that are to be read next. That is so however often it is
 * tried, so Flink does not restart a job for it. transforms/sdf.py says the same.
 */
@ThrowableAnnotation(ThrowableType.NonRecoverableError)
public final class ReadFailure extends IOException {
  private static final long serialVersionUID = 1L;

  private ReadFailure(String message) {
    super(message);
  }

  /** Retention, or a request, was faster than the read: {@code next} is below {@code oldest}. */
  public static ReadFailure deleted(TopicPartition partition, long next, long oldest) {
    return new ReadFailure(
        String.format(
            "Partition %d of topic %s: the records from offset %d on were deleted before they were"
                + " read, the oldest one left is at %d, and consumer_config['auto.offset.reset'] is"
                + " 'none'. Set it to 'earliest' to go on without them.",
            partition.partition(), partition.topic(), next, oldest));
  }

  /** The partition ends before {@code next}: it is not the one, or not all, that was read. */
  public static ReadFailure cut(TopicPartition partition, long next, long end) {
    return new ReadFailure(
        String.format(
            "Partition %d of topic %s was read up to offset %d, but now it ends at %d: the topic was"
                + " deleted and made again, or cut. Start the job anew, without its checkpoint: the"
                + " offsets in it mean other records now. Also reset the committed offsets of its"
                + " group, if it has one.",
            partition.partition(), partition.topic(), next, end));
  }

  public static ReadFailure cut(LogTruncationException found) {
    Map.Entry<TopicPartition, Long> first =
        found.offsetOutOfRangePartitions().entrySet().iterator().next();
    OffsetAndMetadata end = found.divergentOffsets().get(first.getKey());
    return cut(first.getKey(), first.getValue(), end == null ? 0 : end.offset());
  }
}
