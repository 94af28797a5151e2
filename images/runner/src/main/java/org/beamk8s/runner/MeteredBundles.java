package org.beamk8s.runner;

import java.lang.reflect.Field;
import java.util.concurrent.TimeUnit;
import org.apache.beam.runners.core.DoFnRunner;
import org.apache.beam.runners.core.PushbackSideInputDoFnRunner;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.joda.time.Instant;

/**
 * Runs an operator's bundles: ends each when it is as large as {@link BundleSize} allows, and tells
 * the Python harness of each element within {@link #SEND_MS}, see {@link HarnessBuffer}.
 *
 * <p>A frame of records counts by its bytes: the first are small and the last are large, so their
 * number says little about how long they take.
 */
final class MeteredBundles<InputT, OutputT>
    implements DoFnRunner<InputT, OutputT>, PushbackSideInputDoFnRunner<InputT, OutputT> {
  /** Of an operator with one input it is asked for elements, the other one for all else. */
  private static final Field SIMPLE = BeamOperators.field(DoFnOperator.class, "doFnRunner");

  private static final Field RUNNER = BeamOperators.field(DoFnOperator.class, "pushbackDoFnRunner");
  private static final Field COUNT = BeamOperators.field(DoFnOperator.class, "elementCount");
  private static final Field LIMIT = BeamOperators.field(DoFnOperator.class, "maxBundleSize");
  private static final Field TIME = BeamOperators.field(DoFnOperator.class, "maxBundleTimeMills");

  private static final long SEND_MS = 10;

  private final DoFnRunner<InputT, OutputT> simple;
  private final PushbackSideInputDoFnRunner<InputT, OutputT> runner;
  private final DoFnOperator<InputT, OutputT> operator;
  private final BundleSize size;
  private final ProcessingTimeService time;
  private final long limit;
  private long had;
  private long startedAt = System.nanoTime();
  private boolean open;
  private boolean timerSet;

  private MeteredBundles(
      DoFnRunner<InputT, OutputT> simple,
      PushbackSideInputDoFnRunner<InputT, OutputT> runner,
      DoFnOperator<InputT, OutputT> operator,
      BundleSize size,
      ProcessingTimeService time,
      long limit) {
    this.simple = simple;
    this.runner = runner;
    this.operator = operator;
    this.size = size;
    this.time = time;
    this.limit = limit;
  }

  /** Before the operator opens: its configured limit in elements. Until {@code attach} it is one. */
  static long begin(DoFnOperator<?, ?> operator) {
    try {
      long limit = LIMIT.getLong(operator);
      LIMIT.setLong(operator, 1);
      return limit;
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  /** After it has opened. */
  @SuppressWarnings("unchecked")
  static <InputT, OutputT> void attach(
      DoFnOperator<InputT, OutputT> operator, long limit, ProcessingTimeService time) {
    try {
      DoFnRunner<InputT, OutputT> simple = (DoFnRunner<InputT, OutputT>) SIMPLE.get(operator);
      PushbackSideInputDoFnRunner<InputT, OutputT> runner =
          (PushbackSideInputDoFnRunner<InputT, OutputT>) RUNNER.get(operator);
      long nanos = TimeUnit.MILLISECONDS.toNanos(TIME.getLong(operator));
      BundleSize size = new BundleSize(Long.MAX_VALUE / 2, nanos);
      MeteredBundles<InputT, OutputT> metered =
          new MeteredBundles<>(simple, runner, operator, size, time, limit);
      SIMPLE.set(operator, metered);
      RUNNER.set(operator, metered);
      LIMIT.setLong(operator, limit);
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  @Override
  public void startBundle() {
    startedAt = System.nanoTime();
    had = 0;
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
    size.finished(had, now - startedAt, now - finishing);
  }

  @Override
  public void processElement(WindowedValue<InputT> element) {
    simple.processElement(element);
    count(element);
  }

  @Override
  public Iterable<WindowedValue<InputT>> processElementInReadyWindows(
      WindowedValue<InputT> element) {
    Iterable<WindowedValue<InputT>> pushedBack = runner.processElementInReadyWindows(element);
    count(element);
    return pushedBack;
  }

  private void count(WindowedValue<InputT> element) {
    InputT value = element.getValue();
    had += value instanceof byte[] ? Math.max(1, ((byte[]) value).length) : 1;
    if (had < size.elements()) {
      return;
    }
    try {
      COUNT.setLong(operator, limit - 1); // the operator adds this element, and looks at its limit
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
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
