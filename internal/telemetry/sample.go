package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// maxSites bounds the call sites that are remembered; the code has a few hundred.
const maxSites = 4096

// samplingHandler lets through so many lines a second from each place in the code. What is above is counted; the
// count goes out with the next line of that place as suppressed=N, or by itself once the place is quiet.
type samplingHandler struct {
	next    slog.Handler
	sampler *sampler
}

// Enabled implements slog.Handler.
func (h *samplingHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *samplingHandler) Handle(ctx context.Context, r slog.Record) error {
	ok, suppressed := h.sampler.admit(h, &r)
	if !ok {
		return nil
	}
	if suppressed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Uint64("suppressed", suppressed))
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *samplingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &samplingHandler{next: h.next.WithAttrs(attrs), sampler: h.sampler}
}

// WithGroup implements slog.Handler.
func (h *samplingHandler) WithGroup(name string) slog.Handler {
	return &samplingHandler{next: h.next.WithGroup(name), sampler: h.sampler}
}

// sampler counts lines by place; all handlers made from one logger share it.
type sampler struct {
	limit int
	now   func() time.Time

	mu       sync.Mutex // guards sites and lastScan
	sites    map[uintptr]*site
	lastScan time.Time
}

// site is one place in the code.
type site struct {
	since      time.Time // begin of the current second
	lines      int
	suppressed uint64
	handler    *samplingHandler // of the last suppressed line
	level      slog.Level
	message    string
}

func newSampler(limit int, now func() time.Time) *sampler {
	return &sampler{limit: limit, now: now, sites: make(map[uintptr]*site)}
}

// admit tells whether a line may go out, and how many of its place were left out before it.
func (s *sampler) admit(h *samplingHandler, r *slog.Record) (ok bool, suppressed uint64) {
	now := s.now()
	s.mu.Lock()
	at := s.sites[r.PC]
	if at == nil {
		if len(s.sites) >= maxSites {
			s.mu.Unlock()
			return true, 0
		}
		at = &site{since: now}
		s.sites[r.PC] = at
	}
	if now.Sub(at.since) >= time.Second {
		at.since, at.lines = now, 0
	}
	if at.lines < s.limit {
		at.lines++
		ok, suppressed, at.suppressed = true, at.suppressed, 0
	} else {
		at.suppressed++
		at.handler, at.level, at.message = h, r.Level, r.Message
	}
	var quiet []site
	if now.Sub(s.lastScan) >= time.Second {
		s.lastScan = now
		quiet = s.takeQuiet(now.Add(-time.Second))
	}
	s.mu.Unlock()
	report(now, quiet)
	return ok, suppressed
}

// takeQuiet takes the counts of places whose second began before then. The caller holds mu.
func (s *sampler) takeQuiet(then time.Time) []site {
	var quiet []site
	for _, at := range s.sites {
		if at.suppressed > 0 && at.since.Before(then) {
			quiet = append(quiet, *at)
			at.suppressed = 0
		}
	}
	return quiet
}

func (s *sampler) flush() {
	now := s.now()
	s.mu.Lock()
	quiet := s.takeQuiet(now.Add(time.Hour))
	s.mu.Unlock()
	report(now, quiet)
}

// report writes counts past the sampling, with the attributes of the place's own logger.
func report(now time.Time, quiet []site) {
	for _, at := range quiet {
		r := slog.NewRecord(now, at.level, at.message, 0)
		r.AddAttrs(slog.Uint64("suppressed", at.suppressed))
		_ = at.handler.next.Handle(context.Background(), r) // a log that cannot be written cannot be reported either
	}
}
