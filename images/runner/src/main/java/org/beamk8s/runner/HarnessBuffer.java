package org.beamk8s.runner;

import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.runners.flink.translation.wrappers.streaming.ExecutableStageDoFnOperator;
import org.apache.beam.sdk.fn.data.BeamFnDataOutboundAggregator;

/**
 * Beam's buffer of elements on their way to the Python harness: it is sent when it is full or the
 * bundle ends, which a record that came early in a quiet second would wait for.
 *
 * <p>Beam's own way to send it sooner, the experiment {@code data_buffer_time_limit_ms}, starts a
 * thread for each bundle (Beam 2.62) that never ends. This one is called by the task's own thread.
 */
final class HarnessBuffer {
  /** The runner of an operator whose elements go to a harness. */
  static final Field RUNNER =
      BeamOperators.field(ExecutableStageDoFnOperator.class, "sdkHarnessRunner");
  private static final Field RECEIVER = BeamOperators.field(RUNNER.getType(), "mainInputReceiver");
  private static final Method FLUSH;

  static {
    try {
      FLUSH = BeamFnDataOutboundAggregator.class.getDeclaredMethod("flush");
      FLUSH.setAccessible(true);
    } catch (NoSuchMethodException e) {
      throw new IllegalStateException(BeamOperators.OTHER_VERSION, e);
    }
  }

  private HarnessBuffer() {}

  /** Whether the operator's elements go to a harness. */
  static boolean has(DoFnOperator<?, ?> operator) {
    return operator instanceof ExecutableStageDoFnOperator;
  }

  /** Sends what the buffer holds, if a bundle is open. */
  static void send(DoFnOperator<?, ?> operator) {
    try {
      Object counting = RECEIVER.get(RUNNER.get(operator));
      if (counting == null) {
        return;
      }
      Object receiver = BeamOperators.field(counting.getClass(), "delegate").get(counting);
      FLUSH.invoke(BeamOperators.field(receiver.getClass(), "this$0").get(receiver));
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    } catch (InvocationTargetException e) {
      throw new IllegalStateException("elements could not be sent to the harness", e.getCause());
    }
  }
}
