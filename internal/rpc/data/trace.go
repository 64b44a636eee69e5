package data

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-mq/sluice/internal/publish"
)

const traceparent = "traceparent"

// addTrace gives messages without a traceparent header the one of the call, so that a consumer's span can follow the
// publisher's: its span where the node traces, else what the caller sent along, if it is valid. Only for single calls:
// one trace for all that a stream carries in its life would tie strangers together, so on a stream the client gives
// each message its own.
func addTrace(ctx context.Context, ms []publish.Message) {
	var parent, state string
	if vs := metadata.ValueFromIncomingContext(ctx, traceparent); len(vs) > 0 {
		parent, state = vs[0], strings.Join(metadata.ValueFromIncomingContext(ctx, "tracestate"), ",")
	}
	addTraceFrom(ctx, parent, state, ms)
}

// addTraceFrom does it with what came in the call's own headers.
func addTraceFrom(ctx context.Context, parent, state string, ms []publish.Message) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		if parent == "" {
			return
		}
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparent: parent, "tracestate": state})
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if carrier[traceparent] == "" {
		return
	}
	add := []publish.Header{{Name: traceparent, Value: []byte(carrier[traceparent])}}
	if st := carrier["tracestate"]; st != "" {
		add = append(add, publish.Header{Name: "tracestate", Value: []byte(st)})
	}
	for i := range ms {
		if !hasHeader(ms[i].Headers, traceparent) {
			ms[i].Headers = append(slices.Clip(ms[i].Headers), add...)
		}
	}
}

func hasHeader(hs []publish.Header, name string) bool {
	for i := range hs {
		if hs[i].Name == name {
			return true
		}
	}
	return false
}
