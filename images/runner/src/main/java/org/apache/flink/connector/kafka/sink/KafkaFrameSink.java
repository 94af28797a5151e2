package org.apache.flink.connector.kafka.sink;

import java.io.IOException;
import java.lang.reflect.Proxy;
import java.util.Collection;
import java.util.List;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.api.common.operators.MailboxExecutor;
import org.apache.flink.api.connector.sink2.Committer;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.util.function.SupplierWithException;
import org.apache.flink.util.function.ThrowingRunnable;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.beamk8s.runner.kafka.KafkaWriteSpec;
import org.beamk8s.runner.kafka.WriteFailure;
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
    return KafkaSink.<ProducerRecord<byte[], byte[]>>builder()
        .setKafkaProducerConfig(spec.resolvedProperties())
        .setDeliveryGuarantee(spec.guarantee())
        .setRecordSerializer((record, context, timestamp) -> record)
        .setTransactionalIdPrefix(spec.transactionalIdPrefix())
        .build();
  }

  @Override
  public PrecommittingStatefulSinkWriter<WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable>
      createWriter(InitContext context) throws IOException {
    return restoreWriter(context, List.of());
  }

  @Override
  public PrecommittingStatefulSinkWriter<WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable>
      restoreWriter(InitContext context, Collection<KafkaWriterState> state) throws IOException {
    return new Writer(checked(() -> sink().restoreWriter(withChecks(context), state)));
  }

  @Override
  public Committer<KafkaCommittable> createCommitter() throws IOException {
    return new FaithfulCommitter(sink().createCommitter(), spec);
  }

  /** Kafka's producer says what went wrong; this ends the job if trying again is of no use. */
  private <T, E extends Exception> T checked(SupplierWithException<T, E> step)
      throws E, WriteFailure {
    try {
      return step.get();
    } catch (Exception e) {
      WriteFailure.throwIfFinal(e, spec);
      throw e;
    }
  }

  /** The writer's callbacks fail the task from the mailbox, not through the writer. */
  private InitContext withChecks(InitContext context) {
    MailboxExecutor mailbox = context.getMailboxExecutor();
    MailboxExecutor checking =
        new MailboxExecutor() {
          @Override
          public void execute(
              ThrowingRunnable<? extends Exception> command, String description, Object... args) {
            mailbox.execute(
                () ->
                    checked(
                        () -> {
                          command.run();
                          return null;
                        }),
                description,
                args);
          }

          @Override
          public void yield() throws InterruptedException {
            mailbox.yield();
          }

          @Override
          public boolean tryYield() {
            return mailbox.tryYield();
          }
        };
    return (InitContext)
        Proxy.newProxyInstance(
            InitContext.class.getClassLoader(),
            new Class<?>[] {InitContext.class},
            (proxy, method, args) ->
                method.getName().equals("getMailboxExecutor")
                    ? checking
                    : method.invoke(context, args));
  }

  @Override
  public SimpleVersionedSerializer<KafkaCommittable> getCommittableSerializer() {
    return new KafkaCommittableSerializer();
  }

  @Override
  public SimpleVersionedSerializer<KafkaWriterState> getWriterStateSerializer() {
    return new KafkaWriterStateSerializer();
  }

  private final class Writer
      implements PrecommittingStatefulSinkWriter<
          WindowedValue<byte[]>, KafkaWriterState, KafkaCommittable> {
    private final KafkaWriter<ProducerRecord<byte[], byte[]>> records;

    Writer(KafkaWriter<ProducerRecord<byte[], byte[]>> records) {
      this.records = records;
    }

    @Override
    public void write(WindowedValue<byte[]> frame, Context context)
        throws IOException, InterruptedException {
      try {
        WriteFrame.unpack(
            frame.getValue(), spec.topic(), record -> records.write(record, context));
      } catch (IOException | RuntimeException e) {
        WriteFailure.throwIfFinal(e, spec);
        throw e;
      }
    }

    @Override
    public void flush(boolean endOfInput) throws IOException, InterruptedException {
      try {
        records.flush(endOfInput);
      } catch (IOException | RuntimeException e) {
        WriteFailure.throwIfFinal(e, spec);
        throw e;
      }
    }

    @Override
    public Collection<KafkaCommittable> prepareCommit() throws IOException {
      return checked(records::prepareCommit);
    }

    @Override
    public List<KafkaWriterState> snapshotState(long checkpointId) throws IOException {
      return checked(() -> records.snapshotState(checkpointId));
    }

    @Override
    public void close() throws Exception {
      records.close();
    }
  }
}
