package org.beamk8s.runner;

import java.lang.reflect.Field;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.flink.core.fs.CloseableRegistry;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.operators.SimpleOperatorFactory;
import org.apache.flink.streaming.api.operators.StreamOperator;
import org.apache.flink.streaming.api.operators.StreamOperatorParameters;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.LatencyMarker;
import org.apache.flink.streaming.runtime.streamrecord.RecordAttributes;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.util.OutputTag;

/**
 * Keeps the status IDLE behind the records it must not overtake.
 *
 * <p>Beam's operator holds watermarks back while the Python harness works on a bundle, but Flink's
 * base class forwards IDLE at once. The operators after it then leave this subtask out of their
 * watermark, or, if all are idle, advance to the greatest one, while the bundle's results are still
 * to come: these are late, and windows drop them without a word. So each of Beam's operators gets an
 * output that forwards IDLE only when no bundle is open and no watermark is held; until then it looks
 * again in short intervals. ACTIVE passes at once and recalls an IDLE that waits.
 *
 * <p>And its bundles are metered, see {@link BundleSize}, and its state is shut when the task is
 * cancelled, see {@link StateGate}.
 */
final class IdleAfterBundles<T> extends SimpleOperatorFactory<T> {
  private static final long serialVersionUID = 1L;
  private static final long CHECK_MS = 50;
  private static final Field BUNDLE_STARTED =
      BeamOperators.field(DoFnOperator.class, "bundleStarted");
  private static final Field INPUT_WATERMARK =
      BeamOperators.field(DoFnOperator.class, "currentInputWatermark");

  /** The factory of an operator that keeps IDLE back. */
  IdleAfterBundles(DoFnOperator<?, T> operator) {
    super((StreamOperator) operator);
  }

  @Override
  public <O extends StreamOperator<T>> O createStreamOperator(
      StreamOperatorParameters<T> parameters) {
    ProcessingTimeService time = parameters.getProcessingTimeService();
    DoFnOperator<?, ?> operator = (DoFnOperator<?, ?>) getOperator();
    long limit = MeteredBundles.begin(operator);
    CloseableRegistry cancelables = parameters.getContainingTask().getCancelables();
    // Timers fire between elements, so after the operator has opened.
    time.registerTimer(
        time.getCurrentProcessingTime(),
        timestamp -> {
          MeteredBundles.attach(operator, limit, time);
          StateGate gate = StateGate.attach(operator);
          if (gate != null) {
            cancelables.registerCloseable(gate);
          }
        });
    Output<StreamRecord<T>> output = new PatientOutput<>(parameters.getOutput(), time, operator);
    return super.createStreamOperator(
        new StreamOperatorParameters<>(
            parameters.getContainingTask(),
            parameters.getStreamConfig(),
            output,
            () -> time,
            parameters.getOperatorEventDispatcher()));
  }

  /** Used in the task's thread only; its timers run there too. */
  static final class PatientOutput<T> implements Output<StreamRecord<T>> {
    private final Output<StreamRecord<T>> output;
    private final ProcessingTimeService time;
    private final DoFnOperator<?, ?> operator;
    private boolean idleWaits;
    private boolean timerSet;

    PatientOutput(
        Output<StreamRecord<T>> output,
        ProcessingTimeService time,
        DoFnOperator<?, ?> operator) {
      this.output = output;
      this.time = time;
      this.operator = operator;
    }

    @Override
    public void emitWatermarkStatus(WatermarkStatus status) {
      idleWaits = status.isIdle() && isBusy();
      if (!idleWaits) {
        output.emitWatermarkStatus(status);
      } else if (!timerSet) {
        timerSet = true;
        time.registerTimer(time.getCurrentProcessingTime() + CHECK_MS, timestamp -> check());
      }
    }

    private void check() {
      timerSet = false;
      if (idleWaits) {
        emitWatermarkStatus(WatermarkStatus.IDLE);
      }
    }

    private boolean isBusy() {
      try {
        return BUNDLE_STARTED.getBoolean(operator)
            || operator.getCurrentOutputWatermark() < INPUT_WATERMARK.getLong(operator);
      } catch (IllegalAccessException e) {
        throw new IllegalStateException(e);
      }
    }

    @Override
    public void emitWatermark(Watermark mark) {
      output.emitWatermark(mark);
    }

    @Override
    public <X> void collect(OutputTag<X> tag, StreamRecord<X> record) {
      output.collect(tag, record);
    }

    @Override
    public void collect(StreamRecord<T> record) {
      output.collect(record);
    }

    @Override
    public void emitLatencyMarker(LatencyMarker latencyMarker) {
      output.emitLatencyMarker(latencyMarker);
    }

    @Override
    public void emitRecordAttributes(RecordAttributes attributes) {
      output.emitRecordAttributes(attributes);
    }

    @Override
    public void close() {
      output.close();
    }
  }
}
