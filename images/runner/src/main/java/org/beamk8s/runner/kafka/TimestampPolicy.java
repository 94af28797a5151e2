package org.beamk8s.runner.kafka;

import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
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
      return checked(record);
    }
  },
  /** The broker's timestamp; a topic that keeps the producer's is an error. */
  LOG_APPEND_TIME {
    @Override
    long timestamp(ConsumerRecord<?, ?> record, long readingTime) {
      if (record.timestampType() != TimestampType.LOG_APPEND_TIME) {
        throw unusable(record, "its topic does not have message.timestamp.type=LogAppendTime");
      }
      return checked(record);
    }
  };

  abstract long timestamp(ConsumerRecord<?, ?> record, long readingTime);

  /**
   * A record without a timestamp (-1: written in the message format of Kafka 0.9 or older) fails
   * the job. Any time made up for it would be worse: an early one is dropped as late without a
   * word, a late one pushes the watermark past other records.
   */
  private static long checked(ConsumerRecord<?, ?> record) {
    long timestamp = record.timestamp();
    if (timestamp < 0) {
      throw unusable(record, "it has no timestamp");
    }
    if (timestamp > BoundedWindow.TIMESTAMP_MAX_VALUE.getMillis()) {
      throw unusable(record, "its timestamp " + timestamp + " ms is beyond what Beam can hold");
    }
    return timestamp;
  }

  private static IllegalStateException unusable(ConsumerRecord<?, ?> record, String reason) {
    return new IllegalStateException(
        String.format(
            "record %s-%d@%d has no usable event time: %s;"
                + " timestamp_policy=ReadFromKafka.processing_time_policy reads it",
            record.topic(), record.partition(), record.offset(), reason));
  }
}
