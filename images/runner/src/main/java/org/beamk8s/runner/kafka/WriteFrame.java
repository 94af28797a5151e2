package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * Unpacks a write frame, as the Python side packs it. Big endian; what stands in brackets is there
 * only if its bit is set:
 *
 * <pre>
 * u8 version, u8 flags (bit 0: timestamps, 1: headers, 2: topics, 3: partitions), i32 n
 * [topics: u16 count, count x (u16 length, UTF-8), n x u16 the record's topic]
 * [n x i32 partition, -1 by the partitioner], [n x i64 timestamp ms, -1 present time]
 * n x i32 key length, n x i32 value length (-1 null), [n x i32 header block length]
 * n x (key, value, [header block, as in a read frame])
 * </pre>
 */
public final class WriteFrame {
  private static final byte VERSION = 2;
  private static final int FLAG_TIMESTAMPS = 1;
  private static final int FLAG_HEADERS = 2;
  private static final int FLAG_TOPICS = 4;
  private static final int FLAG_PARTITIONS = 8;
  private static final int NULL = -1;

  private WriteFrame() {}

  /** Takes a frame's records one by one. */
  public interface RecordConsumer {
    void accept(ProducerRecord<byte[], byte[]> record) throws IOException, InterruptedException;
  }

  /**
   * @param topic for the records of a frame that names no topics; null if every frame must
   */
  public static void unpack(byte[] frame, String topic, RecordConsumer consumer)
      throws IOException, InterruptedException {
    ByteBuffer data = ByteBuffer.wrap(frame);
    byte version = data.get();
    if (version != VERSION) {
      throw new IOException(
          "write frame of version " + version + ", this runner jar knows " + VERSION);
    }
    int flags = data.get();
    int n = data.getInt();
    String[] topics = (flags & FLAG_TOPICS) == 0 ? null : topics(data, n);
    int[] partitions = (flags & FLAG_PARTITIONS) == 0 ? null : ints(data, n);
    long[] timestamps = (flags & FLAG_TIMESTAMPS) == 0 ? null : longs(data, n);
    int[] keys = ints(data, n);
    int[] values = ints(data, n);
    int[] headers = (flags & FLAG_HEADERS) == 0 ? null : ints(data, n);
    for (int i = 0; i < n; i++) {
      ProducerRecord<byte[], byte[]> record =
          new ProducerRecord<>(
              topics == null ? topic : topics[i],
              partitions == null || partitions[i] < 0 ? null : partitions[i],
              timestamps == null || timestamps[i] < 0 ? null : timestamps[i],
              bytes(data, keys[i]),
              bytes(data, values[i]));
      if (headers != null) {
        int end = data.position() + headers[i];
        addHeaders(data, record);
        data.position(end);
      }
      consumer.accept(record);
    }
    if (data.hasRemaining()) {
      throw new IOException(data.remaining() + " bytes left over in a write frame");
    }
  }

  /** One string a topic, not one a record. */
  private static String[] topics(ByteBuffer data, int n) {
    String[] table = new String[Short.toUnsignedInt(data.getShort())];
    for (int i = 0; i < table.length; i++) {
      table[i] = string(data);
    }
    String[] topics = new String[n];
    for (int i = 0; i < n; i++) {
      topics[i] = table[Short.toUnsignedInt(data.getShort())];
    }
    return topics;
  }

  private static String string(ByteBuffer data) {
    return new String(
        bytes(data, Short.toUnsignedInt(data.getShort())), StandardCharsets.UTF_8);
  }

  private static void addHeaders(ByteBuffer data, ProducerRecord<byte[], byte[]> record) {
    int count = Short.toUnsignedInt(data.getShort());
    for (int i = 0; i < count; i++) {
      String name = string(data);
      record.headers().add(name, bytes(data, data.getInt()));
    }
  }

  private static byte[] bytes(ByteBuffer data, int length) {
    if (length == NULL) {
      return null;
    }
    byte[] value = new byte[length];
    data.get(value);
    return value;
  }

  private static long[] longs(ByteBuffer data, int n) {
    long[] values = new long[n];
    data.asLongBuffer().get(values);
    data.position(data.position() + Long.BYTES * n);
    return values;
  }

  private static int[] ints(ByteBuffer data, int n) {
    int[] values = new int[n];
    data.asIntBuffer().get(values);
    data.position(data.position() + Integer.BYTES * n);
    return values;
  }
}
