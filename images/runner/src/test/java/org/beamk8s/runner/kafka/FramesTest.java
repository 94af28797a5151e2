package org.beamk8s.runner.kafka;

import static org.beamk8s.runner.kafka.Records.bytes;
import static org.beamk8s.runner.kafka.Records.record;
import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.record.TimestampType;
import org.junit.Test;

public class FramesTest {
  private static final TopicPartition A = new TopicPartition("tä", 3);
  private static final TopicPartition B = new TopicPartition("u", 0);

  /** After a record of two bytes. */
  private static PartitionBacklog backlog(long left) {
    PartitionBacklog backlog = new PartitionBacklog(() -> PartitionBacklog.UNKNOWN);
    backlog.add(0, left, 1, 2, 0);
    return backlog;
  }

  /** The bytes themselves, as the Python side must read exactly these. */
  @Test
  public void aReadFrameIsLaidOutAsAgreed() {
    ReadFrame frame = new ReadFrame(false);
    frame.add(A, record(A, 7, 1000, TimestampType.CREATE_TIME, "k", null), 1000);
    frame.add(A, record(A, 8, 900, TimestampType.CREATE_TIME, null, "val"), 900);
    frame.addBacklog(A); // is told with its records
    frame.addBacklog(B);
    frame.addLost(A, 1);
    frame.addLost(A, 2);
    assertEquals(900, frame.leastTimestamp());
    byte[] bytes = frame.take(segment -> backlog(segment.partition.equals(A) ? 5 : -1));
    assertEquals(
        "03" + "00" + "00000003"
            + "0003" + "74c3a4" + "00000003"
            + "0000000000000005" + "000000000000000a" + "ffffffffffffffff" + "0000000000000000"
            + "00" + "00000002"
            + "00000000000003e8" + "0000000000000384"
            + "00000001" + "ffffffff"
            + "ffffffff" + "00000003"
            + "6b" + "76616c"
            + "0001" + "75" + "00000000"
            + "ffffffffffffffff".repeat(3) + "0000000000000000" + "ff" + "00000000"
            + "0003" + "74c3a4" + "00000003"
            + "0000000000000005" + "000000000000000a" + "ffffffffffffffff" + "0000000000000003"
            + "ff" + "00000000",
        HexFormat.of().formatHex(bytes));
    assertTrue(frame.isEmpty());
    assertFalse(frame.hasRecords());
  }

  @Test
  public void metadataAddsOffsetsTimestampsAndHeaders() {
    ConsumerRecord<byte[], byte[]> record =
        record(B, 7, 1000, TimestampType.LOG_APPEND_TIME, "k", "v");
    record.headers().add("h", bytes("x"));
    record.headers().add("n", null);
    ReadFrame frame = new ReadFrame(true);
    frame.add(B, record, 2000);
    assertEquals(
        "03" + "01" + "00000001"
            + "0001" + "75" + "00000000" + "0000000000000000".repeat(4) + "01" + "00000001"
            + "00000000000007d0" + "0000000000000007" + "00000000000003e8"
            + "00000001" + "00000001" + "00000011"
            + "6b" + "76"
            + "0002" + "0001" + "68" + "00000001" + "78" + "0001" + "6e" + "ffffffff",
        HexFormat.of().formatHex(frame.take(segment -> backlog(0))));
  }

  @Test
  public void recordsOfAPartitionStandTogetherUnlessTheirTimestampTypeChanged() {
    ReadFrame frame = new ReadFrame(false);
    frame.add(A, record(A, 1, 1), 1);
    frame.add(B, record(B, 1, 1), 1);
    frame.add(A, record(A, 2, 1), 1);
    frame.add(A, record(A, 3, 1, TimestampType.LOG_APPEND_TIME, "k", "v"), 1);
    List<Long> nextOffsets = new ArrayList<>();
    ByteBuffer bytes =
        ByteBuffer.wrap(
            frame.take(
                segment -> {
                  nextOffsets.add(segment.nextOffset());
                  return backlog(0);
                }));
    assertEquals(3, bytes.getInt(2));
    assertEquals(List.of(3L, 2L, 4L), nextOffsets);
  }

  @Test
  public void aFrameIsFullByRecordsOrByBytes() {
    ReadFrame two = new ReadFrame(false);
    two.add(A, record(A, 1, 1), 1);
    assertFalse(two.isFull(2));
    two.add(A, record(A, 2, 1), 1);
    assertTrue(two.isFull(2));
    ReadFrame big = new ReadFrame(false);
    big.add(A, record(A, 1, 1, TimestampType.CREATE_TIME, null, "x".repeat(1 << 20)), 1);
    assertTrue(big.isFull(1000));
  }

  @Test
  public void aWriteFrameIsUnpacked() throws Exception {
    byte[] frame =
        HexFormat.of()
            .parseHex(
                "02" + "0f" + "00000002"
                    + "0002" + "0002" + "c3a9" + "0001" + "74" + "0001" + "0000"
                    + "ffffffff" + "00000007"
                    + "00000000000003e8" + "ffffffffffffffff"
                    + "00000001" + "ffffffff"
                    + "ffffffff" + "00000002"
                    + "00000002" + "00000010"
                    + "6b" + "0000"
                    + "7676" + "0002" + "0001" + "68" + "00000000" + "0001" + "6e" + "ffffffff");
    List<ProducerRecord<byte[], byte[]>> records = unpack(frame);
    assertEquals(2, records.size());
    assertEquals(Long.valueOf(1000), records.get(0).timestamp());
    assertArrayEquals(bytes("k"), records.get(0).key());
    assertNull(records.get(0).value());
    assertNull(records.get(1).timestamp());
    assertNull(records.get(1).key());
    assertArrayEquals(bytes("vv"), records.get(1).value());
    assertArrayEquals(new byte[0], records.get(1).headers().lastHeader("h").value());
    assertNull(records.get(1).headers().lastHeader("n").value());
    assertEquals("t", records.get(0).topic());
    assertEquals("é", records.get(1).topic());
    assertNull(records.get(0).partition());
    assertEquals(Integer.valueOf(7), records.get(1).partition());
  }

  @Test
  public void aPlainWriteFrameLeavesTheRestToTheWriteAndTheProducer() throws Exception {
    byte[] frame = HexFormat.of().parseHex("02" + "00" + "00000001" + "00000001" + "00000001" + "6b76");
    assertEquals(
        List.of(new ProducerRecord<>("topic", null, null, "k", "v").toString()),
        unpack(frame).stream().map(FramesTest::shown).toList());
  }

  private static String shown(ProducerRecord<byte[], byte[]> record) {
    return new ProducerRecord<>(
            record.topic(),
            record.partition(),
            record.timestamp(),
            new String(record.key(), StandardCharsets.UTF_8),
            new String(record.value(), StandardCharsets.UTF_8),
            record.headers())
        .toString();
  }

  @Test
  public void anUnknownOrTooLongWriteFrameIsRefused() {
    assertThrows(IOException.class, () -> unpack(HexFormat.of().parseHex("010000000000")));
    assertThrows(IOException.class, () -> unpack(HexFormat.of().parseHex("02000000000000")));
  }

  private static List<ProducerRecord<byte[], byte[]>> unpack(byte[] frame) throws Exception {
    List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
    WriteFrame.unpack(frame, "topic", records::add);
    return records;
  }
}
