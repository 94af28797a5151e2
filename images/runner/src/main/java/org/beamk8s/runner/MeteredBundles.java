package org.beamk8s.runner;

import java.lang.reflect.Field;
import java.util.concurrent.TimeUnit;
import org.apache.beam.runners.core.PushbackSideInputDoFnRunner;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.joda.time.Instant;

/**
 * Runs an operator's bundles: tells the operator how large the next one may be, and the Python
 * harness of each element within {@link #SEND_MS}, see {@link HarnessBuffer}.
 */
final class MeteredBundles<InputT, OutputT>
    implements PushbackSideInputDoFnRunner<InputT, OutputT> {
  private static final Field RUNNER = BeamOperators.field(DoFnOperator.class, "pushbackDoFnRunner");
  private static final Field COUNT = BeamOperators.field(DoFnOperator.class, "elementCount");
  private static final Field LIMIT = BeamOperators.field(DoFnOperator.class, "maxBundleSize");
  private static final Field TIME = BeamOperators.field(DoFnOperator.class, "maxBundleTimeMills");

  private static final long SEND_MS = 10;

  private final PushbackSideInputDoFnRunner<InputT, OutputT> runner;
  private final DoFnOperator<InputT, OutputT> operator;
  private final BundleSize size;
  private final ProcessingTimeService time;
  private long startedAt = System.nanoTime();
  private boolean open;
  private boolean timerSet;

  private MeteredBundles(
      PushbackSideInputDoFnRunner<InputT, OutputT> runner,
      DoFnOperator<InputT, OutputT> operator,
      BundleSize size,
      ProcessingTimeService time) {
    this.runner = runner;
    this.operator = operator;
    this.size = size;
    this.time = time;
  }

  /** Before the operator opens: its configured limit, and now the least one. */
  static BundleSize begin(DoFnOperator<?, ?> operator) {
    try {
      long nanos = TimeUnit.MILLISECONDS.toNanos(TIME.getLong(operator));
      BundleSize size = new BundleSize(LIMIT.getLong(operator), nanos);
      LIMIT.setLong(operator, size.elements());
      return size;
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  /** After it has opened. */
  @SuppressWarnings("unchecked")
  static <InputT, OutputT> void attach(
      DoFnOperator<InputT, OutputT> operator, BundleSize size, ProcessingTimeService time) {
    try {
      PushbackSideInputDoFnRunner<InputT, OutputT> runner =
          (PushbackSideInputDoFnRunner<InputT, OutputT>) RUNNER.get(operator);
      RUNNER.set(operator, new MeteredBundles<>(runner, operator, size, time));
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  @Override
  public void startBundle() {
    startedAt = System.nanoTime();
    runner.startBundle();
    open = true;
    if (!timerSet && HarnessBuffer.has(operator)) {
      sendSoon();
    }
  }

  @Override
  public void finishBundle() {
    open = false;
    long finishing = System.nanoTime();
    runner.finishBundle();
    long now = System.nanoTime();
    try {
      size.finished(COUNT.getLong(operator), now - startedAt, now - finishing);
      LIMIT.setLong(operator, size.elements());
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  @Override
  public Iterable<WindowedValue<InputT>> processElementInReadyWindows(
      WindowedValue<InputT> element) {
    return runner.processElementInReadyWindows(element);
  }

  /** While a bundle is open, again and again. */
  private void sendSoon() {
    timerSet = true;
    time.registerTimer(
        time.getCurrentProcessingTime() + SEND_MS,
        timestamp -> {
          timerSet = false;
          if (open) {
            HarnessBuffer.send(operator);
            sendSoon();
          }
        });
  }

  @Override
  public <KeyT> void onTimer(
      String timerId,
      String timerFamilyId,
      KeyT key,
      BoundedWindow window,
      Instant timestamp,
      Instant outputTimestamp,
      TimeDomain timeDomain) {
    runner.onTimer(timerId, timerFamilyId, key, window, timestamp, outputTimestamp, timeDomain);
  }

  @Override
  public <KeyT> void onWindowExpiration(BoundedWindow window, Instant outputTimestamp, KeyT key) {
    runner.onWindowExpiration(window, outputTimestamp, key);
  }

  @Override
  public DoFn<InputT, OutputT> getFn() {
    return runner.getFn();
  }
}
