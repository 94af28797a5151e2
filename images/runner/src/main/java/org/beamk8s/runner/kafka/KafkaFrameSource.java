package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.util.Properties;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.source.reader.RecordsWithSplitIds;
import org.apache.flink.connector.base.source.reader.synchronization.FutureCompletingBlockingQueue;
import org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumState;
import org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumStateSerializer;
import org.apache.flink.connector.kafka.source.metrics.KafkaSourceReaderMetrics;
import org.apache.flink.connector.kafka.source.reader.KafkaSourceReader;
import org.apache.flink.connector.kafka.source.reader.LastCommitFetcherManager;
import org.apache.flink.connector.kafka.source.reader.PositionTrackingSplitReader;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplitSerializer;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.util.clock.SystemClock;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;

/**
 * A Kafka source of frames: Flink's KafkaSource with a reader of our own around the connector's.
 *
 * <p>The connector's parts are built where they run and not held here, because they hold the
 * client's properties with all secrets, and this object is serialised into the job graph.
 */
public final class KafkaFrameSource
    implements Source<WindowedValue<byte[]>, KafkaPartitionSplit, KafkaSourceEnumState> {
  private static final long serialVersionUID = 1L;

  private final KafkaReadSpec spec;
  private final String name;

  public KafkaFrameSource(KafkaReadSpec spec, String name) {
    this.spec = spec;
    this.name = name;
  }

  @Override
  public Boundedness getBoundedness() {
    return spec.bounded() ? Boundedness.BOUNDED : Boundedness.CONTINUOUS_UNBOUNDED;
  }

  @Override
  public SourceReader<WindowedValue<byte[]>, KafkaPartitionSplit> createReader(
      SourceReaderContext context) {
    Properties properties = spec.resolvedProperties(name);
    return new KafkaFrameReader(
        spec,
        new FrameSize(spec.frameRecords()),
        context,
        SystemClock.getInstance(),
        log -> recordReader(properties, context, log));
  }

  /**
   * Wired as {@code KafkaSource.createReader} does, so that its metrics are the usual ones, but for
   * {@code pendingRecords}: the connector's are those that the client has not fetched, and thousands
   * that it has may wait for a slow step.
   */
  private KafkaSourceReader<ConsumerRecord<byte[], byte[]>> recordReader(
      Properties properties, SourceReaderContext context, FetchLog log) {
    KafkaSourceReaderMetrics metrics =
        new KafkaSourceReaderMetrics(context.metricGroup()) {
          @Override
          public void maybeAddRecordsLagMetric(
              KafkaConsumer<?, ?> consumer, TopicPartition partition) {}
        };
    FutureCompletingBlockingQueue<RecordsWithSplitIds<ConsumerRecord<byte[], byte[]>>> queue =
        new FutureCompletingBlockingQueue<>();
    Configuration configuration = new Configuration();
    properties
        .stringPropertyNames()
        .forEach(key -> configuration.setString(key, properties.getProperty(key)));
    return new KafkaSourceReader<>(
        queue,
        new LastCommitFetcherManager(
            queue,
            () ->
                new PositionTrackingSplitReader(
                    properties, context, metrics, log, spec.goesOnAfterLoss())),
        (record, output, split) -> {
          output.collect(record);
          split.setCurrentOffset(record.offset() + 1);
        },
        configuration,
        context,
        metrics);
  }

  @Override
  public SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> createEnumerator(
      SplitEnumeratorContext<KafkaPartitionSplit> context) throws IOException {
    return new AnsweringEnumerator(context, spec.source(name)::createEnumerator);
  }

  @Override
  public SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> restoreEnumerator(
      SplitEnumeratorContext<KafkaPartitionSplit> context, KafkaSourceEnumState state)
      throws IOException {
    return new AnsweringEnumerator(
        context, counted -> spec.source(name).restoreEnumerator(counted, state));
  }

  @Override
  public SimpleVersionedSerializer<KafkaPartitionSplit> getSplitSerializer() {
    return new KafkaPartitionSplitSerializer();
  }

  @Override
  public SimpleVersionedSerializer<KafkaSourceEnumState> getEnumeratorCheckpointSerializer() {
    return new KafkaSourceEnumStateSerializer();
  }
}
