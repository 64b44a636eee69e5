package sluice_test

import (
	"sync/atomic"
	"testing"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/internal/echotest"
)

// BenchmarkPublishAsync measures the client alone: the node behind it answers without looking (and in the same process).
func BenchmarkPublishAsync(b *testing.B) {
	b.ReportAllocs()
	addr, opts, stop := echotest.Serve()
	defer stop()
	c, err := sluice.Connect(b.Context(), addr, opts)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close(b.Context()) }()
	p := c.Publisher("t")
	body := make([]byte, 1024)
	var failed atomic.Int64
	done := func(r sluice.Result) {
		if r.Err != nil {
			failed.Add(1)
		}
	}
	for b.Loop() {
		p.PublishAsync(b.Context(), sluice.Message{Body: body}, done)
	}
	if err := p.Flush(b.Context()); err != nil || failed.Load() > 0 {
		b.Fatalf("%d failed; %v", failed.Load(), err)
	}
}

// BenchmarkPublish measures the round trip of a lone synchronous publish.
func BenchmarkPublish(b *testing.B) {
	b.ReportAllocs()
	addr, opts, stop := echotest.Serve()
	defer stop()
	c, err := sluice.Connect(b.Context(), addr, opts)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close(b.Context()) }()
	p := c.Publisher("t")
	for b.Loop() {
		if _, err := p.Publish(b.Context(), sluice.Message{Body: []byte("x")}); err != nil {
			b.Fatal(err)
		}
	}
}
