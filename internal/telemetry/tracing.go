package telemetry

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// TracingConfig says where traces go.
type TracingConfig struct {
	Endpoint string // host:port of an OTLP collector (gRPC); empty: off
	Insecure bool
	Sample   float64 // share of new traces, 0 to 1
}

// DefaultTracingConfig is off; once an endpoint is given, one trace in a hundred is recorded.
func DefaultTracingConfig() TracingConfig { return TracingConfig{Sample: 0.01} }

// Tracing makes spans and sends them.
type Tracing struct {
	Provider trace.TracerProvider
	// Propagator reads and writes W3C trace context.
	Propagator propagation.TextMapPropagator
	stop       func(context.Context) error
}

// exportTimeout bounds one export, so that a collector that is away holds up the end of the process only so long.
const exportTimeout = 2 * time.Second

// NewTracing sets up tracing. A collector that is away never delays or fails anything but its own spans.
func NewTracing(ctx context.Context, cfg TracingConfig, b Build, node string) (*Tracing, error) {
	t := &Tracing{
		Provider:   noop.NewTracerProvider(),
		Propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		stop:       func(context.Context) error { return nil },
	}
	if cfg.Endpoint == "" {
		return t, nil
	}
	opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTimeout(exportTimeout)}
	if cfg.Insecure {
		opts = append(opts, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("tracing to %s: %w", cfg.Endpoint, err)
	}
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Sample))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "sluice"),
			attribute.String("service.version", b.Version),
			attribute.String("service.instance.id", node),
		)),
	)
	t.Provider, t.stop = p, p.Shutdown
	return t, nil
}

// Install makes these the process's own, for instrumented libraries.
func (t *Tracing) Install() {
	otel.SetTracerProvider(t.Provider)
	otel.SetTextMapPropagator(t.Propagator)
}

// Stop sends what is still buffered and ends.
func (t *Tracing) Stop(ctx context.Context) error { return t.stop(ctx) }
