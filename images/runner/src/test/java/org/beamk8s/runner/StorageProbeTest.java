package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class StorageProbeTest {
  private static final String[] NO_SETTINGS = {};

  @Rule public final TemporaryFolder folder = new TemporaryFolder();

  @Test
  public void aFolderThatCanBeWrittenIsLeftAsItWas() throws Exception {
    File there = folder.newFolder("there");
    StorageProbe.probe(there.toURI().toString(), NO_SETTINGS);
    assertEquals(0, there.list().length);
  }

  @Test
  public void aFolderThatIsNotThereIsMadeAsFlinkDoes() throws Exception {
    StorageProbe.probe(new File(folder.getRoot(), "new").toURI().toString(), NO_SETTINGS);
    assertTrue(new File(folder.getRoot(), "new").isDirectory());
  }

  @Test
  public void whatCannotBeWrittenFails() throws Exception {
    String below = folder.newFile("file").toURI().toString();
    assertThrows(IOException.class, () -> StorageProbe.probe(below, NO_SETTINGS));
  }

  @Test
  public void aSchemeWithoutAFileSystemFails() {
    assertThrows(IOException.class, () -> StorageProbe.probe("nowhere://a/b", NO_SETTINGS));
  }
}
