package org.beamk8s.runner;

import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.util.List;
import org.apache.beam.runners.core.KeyedWorkItem;
import org.apache.beam.runners.core.LateDataDroppingDoFnRunner;
import org.apache.beam.runners.core.construction.SerializablePipelineOptions;
import org.apache.beam.runners.flink.metrics.FlinkMetricContainer;
import org.apache.beam.runners.flink.translation.types.CoderTypeSerializer;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.runners.flink.translation.wrappers.streaming.FlinkKeyUtils;
import org.apache.beam.runners.flink.translation.wrappers.streaming.SingletonKeyedWorkItemCoder;
import org.apache.beam.runners.flink.translation.wrappers.streaming.WindowDoFnOperator;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.metrics.MetricName;
import org.apache.beam.sdk.transforms.windowing.DefaultTrigger;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.transforms.windowing.PaneInfo;
import org.apache.beam.sdk.transforms.windowing.SlidingWindows;
import org.apache.beam.sdk.transforms.windowing.TimestampCombiner;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.beam.sdk.util.WindowedValue.WindowedValueCoder;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.WindowingStrategy;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.joda.time.Duration;
import org.joda.time.Instant;

/**
 * A GroupByKey whose windows give one result each, when the watermark passes their end: fixed or
 * sliding windows, default trigger, no allowed lateness. It does in Flink's state and timers what
 * Beam's operator does in general ones of its own, which cost far more for each key and window; its
 * results are the same, pane and late records included.
 *
 * <p>Beam calls a record late when its window has ended before the watermark, and a window ended
 * when the watermark is past its last millisecond. Flink's timer of a time fires with a watermark
 * of that time, so it is set to the end of the window, the first millisecond after.
 */
final class GroupByWindow<K, V> extends AbstractStreamOperator<WindowedValue<KV<K, Iterable<V>>>>
    implements OneInputStreamOperator<
            WindowedValue<KeyedWorkItem<K, V>>, WindowedValue<KV<K, Iterable<V>>>>,
        Triggerable<ByteBuffer, TimeWindow> {
  private static final long serialVersionUID = 1L;

  /** Of the state; not that of Beam's operator, which holds other things. */
  static final String UID_SUFFIX = "/windows";

  private static final MetricName LATE =
      MetricName.named(
          LateDataDroppingDoFnRunner.class, LateDataDroppingDoFnRunner.DROPPED_DUE_TO_LATENESS);

  private static final Field STEP = BeamOperators.field(DoFnOperator.class, "stepName");
  private static final Field OPTIONS = BeamOperators.field(DoFnOperator.class, "serializedOptions");
  private static final Field CODER = BeamOperators.field(DoFnOperator.class, "windowedInputCoder");
  private static final Field STRATEGY =
      BeamOperators.field(DoFnOperator.class, "windowingStrategy");

  private final String step;
  private final Coder<K> keyCoder;
  private final CoderTypeSerializer<V> values;

  private transient InternalListState<ByteBuffer, TimeWindow, V> groups;
  private transient InternalTimerService<TimeWindow> timers;
  private transient FlinkMetricContainer metrics;

  GroupByWindow(String step, Coder<K> keyCoder, CoderTypeSerializer<V> values) {
    this.step = step;
    this.keyCoder = keyCoder;
    this.values = values;
  }

  /** What does the same as Beam's operator, or null if only that can. */
  static GroupByWindow<?, ?> inPlaceOf(DoFnOperator<?, ?> operator) throws IllegalAccessException {
    if (!(operator instanceof WindowDoFnOperator)
        || !givesOneResult((WindowingStrategy<?, ?>) STRATEGY.get(operator))) {
      return null;
    }
    WindowedValueCoder<?> windowed = (WindowedValueCoder<?>) CODER.get(operator);
    SingletonKeyedWorkItemCoder<?, ?> items =
        (SingletonKeyedWorkItemCoder<?, ?>) windowed.getValueCoder();
    return new GroupByWindow<>(
        (String) STEP.get(operator),
        items.getKeyCoder(),
        new CoderTypeSerializer<>(
            items.getElementCoder(), (SerializablePipelineOptions) OPTIONS.get(operator)));
  }

  static boolean givesOneResult(WindowingStrategy<?, ?> strategy) {
    return (strategy.getWindowFn() instanceof FixedWindows
            || strategy.getWindowFn() instanceof SlidingWindows)
        && strategy.getTrigger() instanceof DefaultTrigger
        && strategy.getAllowedLateness().equals(Duration.ZERO)
        && strategy.getTimestampCombiner() == TimestampCombiner.END_OF_WINDOW;
  }

  @Override
  @SuppressWarnings("unchecked")
  public void open() throws Exception {
    super.open();
    TimeWindow.Serializer windows = new TimeWindow.Serializer();
    groups =
        (InternalListState<ByteBuffer, TimeWindow, V>)
            getOrCreateKeyedState(windows, new ListStateDescriptor<>("groups", values));
    timers = getInternalTimerService("windows", windows, this);
    metrics = new FlinkMetricContainer(getRuntimeContext());
  }

  @Override
  public void processElement(StreamRecord<WindowedValue<KeyedWorkItem<K, V>>> record)
      throws Exception {
    for (WindowedValue<V> element : record.getValue().getValue().elementsIterable()) {
      for (Object each : element.getWindows()) {
        IntervalWindow window = (IntervalWindow) each;
        if (window.maxTimestamp().getMillis() < timers.currentWatermark()) {
          metrics.getMetricsContainer(step).getCounter(LATE).inc();
          metrics.updateMetrics(step, List.of());
          continue;
        }
        TimeWindow key = new TimeWindow(window.start().getMillis(), window.end().getMillis());
        groups.setCurrentNamespace(key);
        groups.add(element.getValue());
        timers.registerEventTimeTimer(key, key.getEnd());
      }
    }
  }

  @Override
  public void onEventTime(InternalTimer<ByteBuffer, TimeWindow> timer) throws Exception {
    TimeWindow ended = timer.getNamespace();
    groups.setCurrentNamespace(ended);
    IntervalWindow window =
        new IntervalWindow(new Instant(ended.getStart()), new Instant(ended.getEnd()));
    KV<K, Iterable<V>> group =
        KV.of(FlinkKeyUtils.decodeKey(timer.getKey(), keyCoder), groups.get());
    groups.clear();
    output.collect(
        new StreamRecord<>(
            WindowedValue.of(
                group, window.maxTimestamp(), window, PaneInfo.ON_TIME_AND_ONLY_FIRING)));
  }

  @Override
  public void onProcessingTime(InternalTimer<ByteBuffer, TimeWindow> timer) {
    throw new IllegalStateException("no timer of this operator is of processing time");
  }
}
