/** Runs a portable Beam pipeline on the Flink cluster whose {@code lib/} holds this jar. */
package org.beamk8s.runner;
