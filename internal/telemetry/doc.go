// Package telemetry sets up what a node tells about itself: logger, metrics
// registry, tracing, profiles. It decides nothing about what is told: packages
// get the logger, a prometheus.Registerer and a trace.TracerProvider passed in.
package telemetry
