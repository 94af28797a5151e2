package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.sdk.util.construction.NativeTransforms;
import org.apache.flink.util.InstantiationUtil;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class JobMainTest {
  @Rule public final TemporaryFolder folder = new TemporaryFolder();

  @Test
  public void aReferencedOptionsFileIsReadWhereItIsNeededAndNeverSerialised() throws Exception {
    Path file = folder.newFile("options.json").toPath();
    Files.writeString(file, "{\"beam:option:password_1:v1\": \"the-secret\"}");
    OptionsFileJobInfo job = new OptionsFileJobInfo("id", "name", file.toString());
    byte[] bytes = InstantiationUtil.serializeObject(job);
    assertFalse(new String(bytes, StandardCharsets.ISO_8859_1).contains("the-secret"));

    OptionsFileJobInfo received =
        InstantiationUtil.deserializeObject(bytes, getClass().getClassLoader());
    assertEquals("id", received.jobId());
    assertEquals(
        "the-secret",
        received
            .toProvisionInfo()
            .getPipelineOptions()
            .getFieldsOrThrow("beam:option:password_1:v1") // named as Python wrote it
            .getStringValue());

    Files.delete(file);
    assertThrows(UncheckedIOException.class, received::pipelineOptions);
  }

  @Test
  public void ourTransformsAreNativeUntilTheyAreExpanded() {
    RunnerApi.Pipeline.Builder pipeline = RunnerApi.Pipeline.newBuilder();
    for (String urn : new String[] {KafkaTransforms.READ, KafkaTransforms.WRITE, "other"}) {
      pipeline
          .getComponentsBuilder()
          .putTransforms(
              urn,
              RunnerApi.PTransform.newBuilder()
                  .setUniqueName(urn)
                  .setSpec(RunnerApi.FunctionSpec.newBuilder().setUrn(urn))
                  .addSubtransforms("part of " + urn)
                  .build());
    }
    RunnerApi.Pipeline original = pipeline.build();
    assertTrue(NativeTransforms.isNative(transform(original, KafkaTransforms.READ)));
    assertTrue(NativeTransforms.isNative(transform(original, KafkaTransforms.WRITE)));

    RunnerApi.Pipeline expanded = KafkaTransforms.expanded(original);
    for (String urn : new String[] {KafkaTransforms.READ, KafkaTransforms.WRITE}) {
      assertFalse(NativeTransforms.isNative(transform(expanded, urn)));
      assertEquals("part of " + urn, transform(expanded, urn).getSubtransforms(0));
    }
    assertEquals(transform(original, "other"), transform(expanded, "other"));
  }

  @Test
  public void argumentsThatAreNotUnderstoodAreRefused() {
    assertThrows(IllegalArgumentException.class, () -> JobMain.main(new String[] {"--stock", "x"}));
    assertThrows(IllegalArgumentException.class, () -> JobMain.main(new String[] {"--pipeline"}));
  }

  private static RunnerApi.PTransform transform(RunnerApi.Pipeline pipeline, String id) {
    return pipeline.getComponents().getTransformsOrThrow(id);
  }
}
