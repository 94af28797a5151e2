package org.beamk8s.runner.kafka;

import org.apache.beam.sdk.transforms.windowing.GlobalWindow;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.record.TimestampType;

/** Which time becomes a record's event time, in milliseconds. */
public enum TimestampPolicy {
  /** The time of reading, which only grows. */
  PROCESSING_TIME {
    @Override
    long timestamp(ConsumerRecord<?, ?> record, long readingTime) {
      return readingTime;
    }
  },
  /** The record's own timestamp: the producer's, or the broker's if the topic says so. */
  CREATE_TIME {
    @Override
    long timestamp(ConsumerRecord<?, ?> record, long readingTime) {
      return own(record);
    }
  },
  /** The broker's timestamp; a topic that keeps the producer's is an error. */
  LOG_APPEND_TIME {
    @Override
    long timestamp(ConsumerRecord<?, ?> record, long readingTime) {
      if (record.timestampType() != TimestampType.LOG_APPEND_TIME) {
        throw new IllegalStateException(
            String.format(
                "record %s-%d@%d has no usable event time: its topic does not have"
                    + " message.timestamp.type=LogAppendTime;"
                    + " timestamp_policy=ReadFromKafka.processing_time_policy reads it",
                record.topic(), record.partition(), record.offset()));
      }
      return own(record);
    }
  };

  /** Not a time, and none that a record can have. */
  static final long NO_TIME = Long.MIN_VALUE;

  private static final long MAX_MS = GlobalWindow.INSTANCE.maxTimestamp().getMillis();

  abstract long timestamp(ConsumerRecord<?, ?> record, long readingTime);

  /**
   * Whether a record of this time can be placed in Beam's event time. If not, it goes to Python as
   * it is, for the dead letters or to fail the job there. Any time made up for it would be worse: an
   * early one is dropped as late without a word, a late one pushes the watermark past other records.
   */
  static boolean isEventTime(long timestamp) {
    return timestamp != NO_TIME && timestamp <= MAX_MS;
  }

  /** -1 is a record in the message format of Kafka 0.9 or older, or of a producer that says so. */
  private static long own(ConsumerRecord<?, ?> record) {
    return record.timestamp() < 0 ? NO_TIME : record.timestamp();
  }
}
