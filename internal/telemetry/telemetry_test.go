package telemetry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func logger(t *testing.T, limit int) (*slog.Logger, *sampler, *bytes.Buffer, *time.Time) {
	t.Helper()
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	s := newSampler(limit, func() time.Time { return now })
	h := &samplingHandler{next: slog.NewTextHandler(&out, nil), sampler: s}
	return slog.New(h), s, &out, &now
}

func TestRepeatedLinesAreCountedNotWritten(t *testing.T) {
	t.Parallel()
	log, _, out, now := logger(t, 10)
	for i := range 1001 {
		if i == 1000 {
			if n := strings.Count(out.String(), "\n"); n != 10 {
				t.Fatalf("%d lines, want 10", n)
			}
			*now = now.Add(time.Second)
		}
		log.With("part", "x").Warn("broker away", "cluster", "a")
	}
	if !strings.Contains(out.String(), "suppressed=990") {
		t.Errorf("no count in the next line:\n%s", out.String())
	}
}

func TestQuietPlaceReportsItsCountThroughOthers(t *testing.T) {
	t.Parallel()
	log, s, out, now := logger(t, 1)
	for range 5 {
		log.Warn("flood", "cluster", "a")
	}
	*now = now.Add(2 * time.Second)
	log.Info("something else")
	if !strings.Contains(out.String(), "msg=flood suppressed=4") {
		t.Errorf("count lost:\n%s", out.String())
	}
	for range 3 {
		log.Info("third")
	}
	s.flush()
	if !strings.Contains(out.String(), "msg=third suppressed=2") {
		t.Errorf("flush lost the count:\n%s", out.String())
	}
}

func TestLoggerIsSafeForManyGoroutines(t *testing.T) {
	t.Parallel()
	l, err := NewLogger(io.Discard, LogConfig{Format: "json", Level: "info", Repeat: 3})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				l.Info("x", "n", 1)
				l.With("a", 1).Debug("y")
			}
			l.Flush()
		})
	}
	wg.Wait()
}

func TestLevelChangesWhileRunning(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l, err := NewLogger(&out, LogConfig{Format: "text", Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	if err := l.SetLevel("debug"); err != nil {
		t.Fatal(err)
	}
	l.Debug("loud")
	if s := out.String(); strings.Contains(s, "quiet") || !strings.Contains(s, "loud") || !strings.Contains(s, "Z ") {
		t.Errorf("got %q", s)
	}
	if l.SetLevel("shout") == nil {
		t.Error("took an unknown level")
	}
	if _, err := NewLogger(&out, LogConfig{Format: "xml"}); err == nil {
		t.Error("took an unknown format")
	}
}

func TestTracingIsOffWithoutAnEndpointAndHarmlessWithADeadOne(t *testing.T) {
	t.Parallel()
	for _, cfg := range []TracingConfig{{}, {Endpoint: "127.0.0.1:1", Insecure: true, Sample: 1}} {
		tr, err := NewTracing(t.Context(), cfg, ReadBuild(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		_, span := tr.Provider.Tracer("t").Start(t.Context(), "work")
		span.End()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_ = tr.Stop(ctx) // the dead collector may be reported here, in time
		cancel()
	}
}

func TestRegistryTellsTheBuild(t *testing.T) {
	t.Parallel()
	families, err := NewRegistry(ReadBuild()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, want := range []string{"sluice_build_info", "go_goroutines", "process_start_time_seconds"} {
		if !names[want] {
			t.Errorf("no series %s", want)
		}
	}
}
