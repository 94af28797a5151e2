package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Random;
import org.apache.beam.runners.core.KeyedWorkItem;
import org.apache.beam.runners.core.SystemReduceFn;
import org.apache.beam.runners.core.construction.SerializablePipelineOptions;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.runners.flink.translation.types.CoderTypeSerializer;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.runners.flink.translation.wrappers.streaming.SingletonKeyedWorkItem;
import org.apache.beam.runners.flink.translation.wrappers.streaming.SingletonKeyedWorkItemCoder;
import org.apache.beam.runners.flink.translation.wrappers.streaming.WindowDoFnOperator;
import org.apache.beam.runners.flink.translation.wrappers.streaming.WorkItemKeySelector;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.IterableCoder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.transforms.windowing.AfterWatermark;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.GlobalWindows;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.transforms.windowing.PaneInfo;
import org.apache.beam.sdk.transforms.windowing.Sessions;
import org.apache.beam.sdk.transforms.windowing.SlidingWindows;
import org.apache.beam.sdk.transforms.windowing.TimestampCombiner;
import org.apache.beam.sdk.transforms.windowing.WindowFn;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.TupleTag;
import org.apache.beam.sdk.values.WindowingStrategy;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.util.KeyedOneInputStreamOperatorTestHarness;
import org.joda.time.Duration;
import org.joda.time.Instant;
import org.junit.Test;

/** Beam's own operator is the oracle: the same elements and watermarks must give the same results. */
public class GroupByWindowTest {
  private static final FixedWindows FIXED = FixedWindows.of(Duration.millis(10));
  private static final int STEPS = 1000;

  @Test
  public void fixedWindowsGroupAsBeamDoes() throws Exception {
    assertSameAsBeam(FIXED.withOffset(Duration.millis(3)));
  }

  @Test
  public void slidingWindowsGroupAsBeamDoes() throws Exception {
    assertSameAsBeam(SlidingWindows.of(Duration.millis(20)).every(Duration.millis(7)));
  }

  @Test
  public void windowsOfSeveralResultsAreLeftToBeam() {
    WindowingStrategy<Object, IntervalWindow> fixed = WindowingStrategy.of(FIXED);
    assertTrue(GroupByWindow.givesOneResult(fixed));
    assertFalse(GroupByWindow.givesOneResult(fixed.withAllowedLateness(Duration.millis(1))));
    assertFalse(
        GroupByWindow.givesOneResult(fixed.withTrigger(AfterWatermark.pastEndOfWindow())));
    assertFalse(
        GroupByWindow.givesOneResult(fixed.withTimestampCombiner(TimestampCombiner.EARLIEST)));
    assertFalse(
        GroupByWindow.givesOneResult(
            WindowingStrategy.of(Sessions.withGapDuration(Duration.millis(1)))));
    assertFalse(GroupByWindow.givesOneResult(WindowingStrategy.of(new GlobalWindows())));
  }

  private static void assertSameAsBeam(WindowFn<Object, IntervalWindow> windows) throws Exception {
    long seed = System.nanoTime();
    List<String> expected = new Run(windows, true).output(seed);
    assertFalse(expected.isEmpty());
    assertEquals("seed " + seed, expected, new Run(windows, false).output(seed));
  }

  private static final class Run {
    private final WindowFn<Object, IntervalWindow> windows;
    private final boolean beams;
    private final FlinkPipelineOptions options =
        PipelineOptionsFactory.as(FlinkPipelineOptions.class);
    private final SingletonKeyedWorkItemCoder<String, Integer> items;
    private final WorkItemKeySelector<String, Integer> keys;
    private final List<String> output = new ArrayList<>();

    Run(WindowFn<Object, IntervalWindow> windows, boolean beams) {
      this.windows = windows;
      this.beams = beams;
      options.setMaxBundleSize(1L);
      items =
          SingletonKeyedWorkItemCoder.of(
              StringUtf8Coder.of(), VarIntCoder.of(), windows.windowCoder());
      keys = new WorkItemKeySelector<>(StringUtf8Coder.of(), serialized());
    }

    /** Of random elements and watermarks, some of them late; restored from a snapshot once. */
    List<String> output(long seed) throws Exception {
      Random chance = new Random(seed);
      OperatorSubtaskState state = null;
      long watermark = 0;
      for (int attempt = 0; attempt < 2; attempt++) {
        try (KeyedOneInputStreamOperatorTestHarness<ByteBuffer, Object, Object> harness =
            harness()) {
          harness.setup(new CoderTypeSerializer<>((Coder) outputCoder(), serialized()));
          if (state != null) {
            harness.initializeState(state);
          }
          harness.open();
          harness.processWatermark(new Watermark(watermark));
          for (int step = 0; step < STEPS; step++) {
            if (chance.nextInt(4) == 0) {
              watermark += chance.nextInt(6);
              harness.processWatermark(new Watermark(watermark));
            } else {
              long at = watermark + chance.nextInt(30) - 15;
              harness.processElement(new StreamRecord<>(item(chance.nextInt(5), step, at)));
            }
            take(harness);
          }
          state = harness.snapshot(attempt, attempt);
          if (attempt == 1) {
            harness.processWatermark(new Watermark(Long.MAX_VALUE));
            take(harness);
          }
        }
      }
      return output;
    }

    /** What came out in one step: windows that end together come in any order. */
    private void take(KeyedOneInputStreamOperatorTestHarness<ByteBuffer, Object, Object> harness) {
      List<String> step = new ArrayList<>();
      harness.extractOutputValues().forEach(each -> step.add(each.toString()));
      harness.getOutput().clear();
      Collections.sort(step);
      output.addAll(step);
    }

    private WindowedValue<KeyedWorkItem<String, Integer>> item(int key, int value, long at)
        throws Exception {
      Instant timestamp = new Instant(at);
      List<IntervalWindow> in =
          new ArrayList<>(
              windows.assignWindows(
                  windows.new AssignContext() {
                    @Override
                    public Object element() {
                      return value;
                    }

                    @Override
                    public Instant timestamp() {
                      return timestamp;
                    }

                    @Override
                    public BoundedWindow window() {
                      throw new UnsupportedOperationException();
                    }
                  }));
      WindowedValue<Integer> element =
          WindowedValue.of(value, timestamp, in, PaneInfo.NO_FIRING);
      return WindowedValue.valueInGlobalWindow(
          new SingletonKeyedWorkItem<>("key " + key, element));
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private KeyedOneInputStreamOperatorTestHarness<ByteBuffer, Object, Object> harness()
        throws Exception {
      DoFnOperator<?, ?> beamsOperator = beamsOperator();
      OneInputStreamOperator operator =
          beams ? beamsOperator : GroupByWindow.inPlaceOf(beamsOperator);
      return new KeyedOneInputStreamOperatorTestHarness(operator, keys, keys.getProducedType());
    }

    private DoFnOperator<?, ?> beamsOperator() {
      TupleTag<KV<String, Iterable<Integer>>> tag = new TupleTag<>("output");
      return new WindowDoFnOperator<>(
          SystemReduceFn.buffering(VarIntCoder.of()),
          "group",
          WindowedValue.getFullCoder(items, windows.windowCoder()),
          tag,
          List.of(),
          new DoFnOperator.MultiOutputOutputManagerFactory<>(tag, outputCoder(), serialized()),
          WindowingStrategy.of(windows),
          new HashMap<>(),
          List.of(),
          options,
          StringUtf8Coder.of(),
          keys);
    }

    private Coder<WindowedValue<KV<String, Iterable<Integer>>>> outputCoder() {
      return WindowedValue.getFullCoder(
          KvCoder.of(StringUtf8Coder.of(), IterableCoder.of(VarIntCoder.of())),
          windows.windowCoder());
    }

    private SerializablePipelineOptions serialized() {
      return new SerializablePipelineOptions(options);
    }
  }
}
