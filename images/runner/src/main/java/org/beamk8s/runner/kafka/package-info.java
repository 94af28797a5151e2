/** Kafka records in frames: many records as one Beam element, read and written by Flink's connector. */
package org.beamk8s.runner.kafka;
