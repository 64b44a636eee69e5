package rpc

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
)

// startSpan is otelgrpc's counterpart for HTTP: one span a request, named by pattern so that names stay few.
func startSpan(ctx context.Context, r *http.Request) (context.Context, func()) {
	ctx, span := otel.Tracer("github.com/sluice-mq/sluice/internal/rpc").Start(ctx, r.Method+" "+r.Pattern, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, func() { span.End() }
}
