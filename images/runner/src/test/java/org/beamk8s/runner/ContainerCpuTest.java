package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class ContainerCpuTest {
  @Rule public TemporaryFolder folder = new TemporaryFolder();

  private double seconds() {
    return new ContainerCpu(folder.getRoot().toPath()).getValue();
  }

  private void write(String file, String text) throws IOException {
    Path path = folder.getRoot().toPath().resolve(file);
    Files.createDirectories(path.getParent());
    Files.writeString(path, text);
  }

  @Test
  public void bothVersionsOfControlGroupsTellTheSame() throws IOException {
    write("cpuacct/cpuacct.usage", "1500000000\n");
    assertEquals(1.5, seconds(), 0);
    write("cpu.stat", "usage_usec 2500000\nuser_usec 2000000\n");
    assertEquals(2.5, seconds(), 0);
  }

  @Test
  public void whereNobodyTellsItIsNoNumber() throws IOException {
    assertEquals(Double.NaN, seconds(), 0);
    write("cpu.stat", "nr_periods 0\n"); // version 1 has a file of this name elsewhere
    assertEquals(Double.NaN, seconds(), 0);
  }
}
