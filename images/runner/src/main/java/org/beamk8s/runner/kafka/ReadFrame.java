package org.beamk8s.runner.kafka;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.record.TimestampType;

/**
 * Collects records into a read frame, the element that the Python side unpacks. Big endian:
 *
 * <pre>
 * u8 version, u8 flags (bit 0: metadata), i32 segments, then each segment:
 *   u16 length + topic, i32 partition, 3 x i64 backlog (records, bytes, ms; -1 unknown),
 *   i64 records deleted before they were read, u8 timestamp type (255 none), i32 n
 *   n x i64 event time ms, [n x i64 offset, n x i64 record timestamp ms]
 *   n x i32 key length, n x i32 value length (-1 null), [n x i32 header block length]
 *   n x (key, value, [header block: i16 count, count x (i16 length + name, i32 length + value)])
 * </pre>
 *
 * <p>What is alike stands together, so that Python decodes each array with one call. A segment
 * without records only tells a backlog, or a loss.
 */
final class ReadFrame {
  static final byte VERSION = 3;
  static final byte FLAG_METADATA = 1;

  /** Bytes of keys and values after which a frame is full: bounds what one element weighs. */
  private static final int FULL_BYTES = 1 << 20;

  private static final int NO_TIMESTAMP_TYPE = 255;
  private static final int NULL = -1;

  private final boolean withMetadata;
  private final Map<Segment, Segment> segments = new LinkedHashMap<>();
  private final Set<TopicPartition> partitions = new HashSet<>();
  private Segment current;
  private int records;
  private long bytes;
  private long leastTimestamp = Long.MAX_VALUE;

  ReadFrame(boolean withMetadata) {
    this.withMetadata = withMetadata;
  }

  void add(TopicPartition partition, ConsumerRecord<byte[], byte[]> record, long timestamp) {
    if (current == null || !current.takes(partition, record.timestampType())) {
      current = segment(partition, timestampType(record.timestampType()));
    }
    current.add(record, timestamp);
    records++;
    bytes += length(record.key()) + (long) length(record.value());
    if (TimestampPolicy.isEventTime(timestamp)) {
      leastTimestamp = Math.min(leastTimestamp, timestamp);
    }
  }

  /** A segment without records, if there is none of the partition. */
  void addBacklog(TopicPartition partition) {
    if (!partitions.contains(partition)) {
      segment(partition, NO_TIMESTAMP_TYPE);
    }
  }

  /** So many records of the partition were deleted before they were read. */
  void addLost(TopicPartition partition, long lost) {
    segment(partition, NO_TIMESTAMP_TYPE).lost += lost;
  }

  private Segment segment(TopicPartition partition, int timestampType) {
    partitions.add(partition);
    return segments.computeIfAbsent(new Segment(partition, timestampType), segment -> segment);
  }

  boolean isFull(int most) {
    return records >= most || bytes >= FULL_BYTES;
  }

  int records() {
    return records;
  }

  boolean hasRecords() {
    return records > 0;
  }

  boolean isEmpty() {
    return segments.isEmpty();
  }

  /** Of those that are event times; {@link Long#MAX_VALUE} if none is. */
  long leastTimestamp() {
    return leastTimestamp;
  }

  /** The frame's bytes; asks {@code backlog} for each segment, and starts over with none. */
  byte[] take(Function<Segment, PartitionBacklog> backlog) {
    List<byte[]> headers = withMetadata ? headerBlocks() : List.of();
    long size = 6;
    for (Segment segment : segments.values()) {
      int perRecord = withMetadata ? 36 : 16;
      size += 2 + segment.topic.length + 41L + (long) perRecord * segment.records.size();
    }
    size += bytes;
    for (byte[] block : headers) {
      size += block.length;
    }
    ByteBuffer frame = ByteBuffer.allocate(Math.toIntExact(size));
    frame.put(VERSION).put(withMetadata ? FLAG_METADATA : 0).putInt(segments.size());
    int header = 0;
    for (Segment segment : segments.values()) {
      segment.writeArrays(frame, backlog.apply(segment), headers, header);
      for (ConsumerRecord<byte[], byte[]> record : segment.records) {
        put(frame, record.key());
        put(frame, record.value());
        if (withMetadata) {
          frame.put(headers.get(header++));
        }
      }
    }
    segments.clear();
    partitions.clear();
    current = null;
    records = 0;
    bytes = 0;
    leastTimestamp = Long.MAX_VALUE;
    return frame.array();
  }

  private List<byte[]> headerBlocks() {
    List<byte[]> blocks = new ArrayList<>(records);
    for (Segment segment : segments.values()) {
      segment.records.forEach(record -> blocks.add(headerBlock(record)));
    }
    return blocks;
  }

  private static byte[] headerBlock(ConsumerRecord<?, ?> record) {
    Header[] headers = record.headers().toArray();
    byte[][] names = new byte[headers.length][];
    int size = 2;
    for (int i = 0; i < headers.length; i++) {
      names[i] = headers[i].key().getBytes(StandardCharsets.UTF_8);
      size += 6 + names[i].length + length(headers[i].value());
    }
    ByteBuffer block = ByteBuffer.allocate(size).putShort(unsigned16(headers.length));
    for (int i = 0; i < headers.length; i++) {
      byte[] value = headers[i].value();
      block.putShort(unsigned16(names[i].length)).put(names[i]);
      block.putInt(value == null ? NULL : value.length);
      put(block, value);
    }
    return block.array();
  }

  private static short unsigned16(int value) {
    if (value > 0xFFFF) {
      throw new IllegalArgumentException("a header count or name length of " + value);
    }
    return (short) value;
  }

  private static int length(byte[] value) {
    return value == null ? 0 : value.length;
  }

  private static void put(ByteBuffer buffer, byte[] value) {
    if (value != null) {
      buffer.put(value);
    }
  }

  private static int timestampType(TimestampType type) {
    return type == TimestampType.NO_TIMESTAMP_TYPE ? NO_TIMESTAMP_TYPE : type.id;
  }

  /** Records of one partition and timestamp type; equal to others of the same. */
  static final class Segment {
    final TopicPartition partition;
    private final int timestampType;
    private final byte[] topic;
    private final List<ConsumerRecord<byte[], byte[]>> records = new ArrayList<>();
    private long[] timestamps = {};
    private long bytes;
    private long lost;

    private Segment(TopicPartition partition, int timestampType) {
      this.partition = partition;
      this.timestampType = timestampType;
      this.topic = partition.topic().getBytes(StandardCharsets.UTF_8);
    }

    /** The offset after the last record, or -1 without a record. */
    long nextOffset() {
      return records.isEmpty() ? -1 : records.get(records.size() - 1).offset() + 1;
    }

    private void add(ConsumerRecord<byte[], byte[]> record, long timestamp) {
      if (records.size() == timestamps.length) {
        timestamps = Arrays.copyOf(timestamps, Math.max(64, 2 * timestamps.length));
      }
      timestamps[records.size()] = timestamp;
      records.add(record);
      bytes += length(record.key()) + (long) length(record.value());
    }

    int records() {
      return records.size();
    }

    /** Of keys and values. */
    long bytes() {
      return bytes;
    }

    private boolean takes(TopicPartition other, TimestampType type) {
      return partition.equals(other) && timestampType == timestampType(type);
    }

    private void writeArrays(
        ByteBuffer frame, PartitionBacklog backlog, List<byte[]> headers, int firstHeader) {
      frame.putShort(unsigned16(topic.length)).put(topic).putInt(partition.partition());
      frame.putLong(backlog.records()).putLong(backlog.bytes()).putLong(backlog.millis());
      frame.putLong(lost).put((byte) timestampType).putInt(records.size());
      for (int i = 0; i < records.size(); i++) {
        frame.putLong(timestamps[i]);
      }
      if (!headers.isEmpty()) {
        records.forEach(record -> frame.putLong(record.offset()));
        records.forEach(record -> frame.putLong(record.timestamp()));
      }
      records.forEach(record -> frame.putInt(record.key() == null ? NULL : record.key().length));
      records.forEach(
          record -> frame.putInt(record.value() == null ? NULL : record.value().length));
      if (!headers.isEmpty()) {
        for (int i = 0; i < records.size(); i++) {
          frame.putInt(headers.get(firstHeader + i).length);
        }
      }
    }

    @Override
    public boolean equals(Object other) {
      return other instanceof Segment
          && ((Segment) other).partition.equals(partition)
          && ((Segment) other).timestampType == timestampType;
    }

    @Override
    public int hashCode() {
      return 31 * partition.hashCode() + timestampType;
    }
  }
}
