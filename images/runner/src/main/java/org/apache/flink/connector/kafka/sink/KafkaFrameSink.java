package org.apache.flink.connector.kafka.sink;

import java.io.IOException;
import java.util.Collection;
import java.util.List;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.api.connector.sink2.Committer;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.beamk8s.runner.kafka.KafkaWriteSpec;
import org.beamk8s.runner.kafka.WriteFrame;

/**
 * A {@link KafkaSink} that is given frames of many records.
 *
 * <p>It builds Flink's sink only where that opens a producer: a KafkaSink holds its producer's
 * properties, and would carry resolved secrets into the job graph. Unpacking inside the sink, and
 * not in an operator before it, saves a type and its serializer for single records.
 *
 * <p>In the connector's package because the types of its state and committables are not public.
 */
public final class KafkaFrameSink
    implements TwoPhaseCommittingStatefulSink<
        WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable> {
  private static final long serialVersionUID = 1L;

  private final KafkaWriteSpec spec;

  public KafkaFrameSink(KafkaWriteSpec spec) {
    this.spec = spec;
  }

  private KafkaSink<ProducerRecord<byte[], byte[]>> sink() {
    KafkaSinkBuilder<ProducerRecord<byte[], byte[]>> builder =
        KafkaSink.<ProducerRecord<byte[], byte[]>>builder()
            .setKafkaProducerConfig(spec.resolvedProperties())
            .setDeliveryGuarantee(spec.guarantee())
            .setRecordSerializer((record, context, timestamp) -> record);
    if (spec.transactionalIdPrefix() != null) {
      builder.setTransactionalIdPrefix(spec.transactionalIdPrefix());
    }
    return builder.build();
  }

  @Override
  public PrecommittingStatefulSinkWriter<WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable>
      createWriter(InitContext context) throws IOException {
    return new Writer(sink().createWriter(context), spec.topic());
  }

  @Override
  public PrecommittingStatefulSinkWriter<WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable>
      restoreWriter(InitContext context, Collection<KafkaWriterState> state) throws IOException {
    return new Writer(sink().restoreWriter(context, state), spec.topic());
  }

  @Override
  public Committer<KafkaCommittable> createCommitter() throws IOException {
    return sink().createCommitter();
  }

  @Override
  public SimpleVersionedSerializer<KafkaCommittable> getCommittableSerializer() {
    return new KafkaCommittableSerializer();
  }

  @Override
  public SimpleVersionedSerializer<KafkaWriterState> getWriterStateSerializer() {
    return new KafkaWriterStateSerializer();
  }

  private static final class Writer
      implements PrecommittingStatefulSinkWriter<
          WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable> {
    private final KafkaWriter<ProducerRecord<byte[], byte[]>> records;
    private final String topic;

    Writer(KafkaWriter<ProducerRecord<byte[], byte[]>> records, String topic) {
      this.records = records;
      this.topic = topic;
    }

    @Override
    public void write(WindowedValue<byte[]> frame, Context context)
        throws IOException, InterruptedException {
      WriteFrame.unpack(frame.getValue(), topic, record -> records.write(record, context));
    }

    @Override
    public void flush(boolean endOfInput) throws IOException, InterruptedException {
      records.flush(endOfInput);
    }

    @Override
    public Collection<KafkaCommittable> prepareCommit() {
      return records.prepareCommit();
    }

    @Override
    public List<KafkaWriterState> snapshotState(long checkpointId) throws IOException {
      return records.snapshotState(checkpointId);
    }

    @Override
    public void close() throws Exception {
      records.close();
    }
  }
}
