package bench

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Result is what `sluice bench` prints. Names are a contract; fields may be added.
type Result struct {
	Messages int64   `json:"messages"`
	Seconds  float64 `json:"seconds"`
	PerSec   float64 `json:"msgs_per_s"`
	MBPerSec float64 `json:"mb_per_s"` // millions of bytes of bodies
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	P999     float64 `json:"p999_ms"`
	Errors   int64   `json:"errors"`
	// ClientCPU is what this process used for a message, in microseconds; null where the system does not tell.
	ClientCPU *float64 `json:"client_cpu_us_per_msg"`
	// ServerCPU is what the measured server used; null where nobody said which process that is.
	ServerCPU *float64 `json:"server_cpu_us_per_msg"`
	// Of `bench latency`: from when a message was due to its acknowledgement; the quantiles above run to its delivery.
	PublishP50 float64 `json:"publish_p50_ms,omitempty"`
	PublishP99 float64 `json:"publish_p99_ms,omitempty"`
	// FirstError is the first failure's text, where there was one.
	FirstError string `json:"first_error,omitempty"`
}

// histogram counts durations in buckets that are 1/64 wide: 20 KiB for every
// duration there is, however many are counted. The zero value is empty.
type histogram struct {
	counts [64 * 40]int64
	total  int64
}

// add counts a duration n times; those below a microsecond count as one.
func (h *histogram) add(d time.Duration, n int64) {
	h.counts[bucket(d)] += n
	h.total += n
}

func bucket(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1))
	if us < 64 {
		return int(us)
	}
	shift := bits.Len64(us) - 7 // us>>shift is in [64, 128)
	return min((shift+1)*64+int(us>>shift)-64, 64*40-1)
}

// upper is the largest duration of a bucket.
func upper(b int) time.Duration {
	if b < 64 {
		return time.Duration(b) * time.Microsecond
	}
	shift := b/64 - 1
	return time.Duration((uint64(b%64+65)<<shift)-1) * time.Microsecond
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// millis is the quantile q in milliseconds; 0 where nothing was counted.
func (h *histogram) millis(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	rank, seen := int64(math.Ceil(q*float64(h.total))), int64(0)
	for b, n := range h.counts {
		if seen += n; seen >= rank {
			return float64(upper(b)) / float64(time.Millisecond)
		}
	}
	return float64(upper(len(h.counts)-1)) / float64(time.Millisecond)
}

// worker is what one producer or consumer counts; each has its own, so that
// nothing is shared while it is measured.
type worker struct {
	hist       histogram
	messages   int64
	bytes      int64
	errors     int64
	firstError string
}

func (w *worker) fail(n int64, format string, args ...any) {
	w.errors += n
	if w.firstError == "" {
		w.firstError = fmt.Sprintf(format, args...)
	}
}

// meter takes the time and the CPU of one measurement.
type meter struct {
	server func() (float64, error)
	start  time.Time
	client float64
	before float64
	told   bool // server said something at the start
}

// startMeter begins; server may be nil.
func startMeter(server func() (float64, error)) *meter {
	m := &meter{server: server}
	if server != nil {
		if s, err := server(); err == nil {
			m.before, m.told = s, true
		}
	}
	m.client, m.start = ownCPU(), time.Now()
	return m
}

// result ends the measurement.
func (m *meter) result(workers []*worker) Result {
	took := time.Since(m.start).Seconds()
	client := ownCPU() - m.client
	var all worker
	for _, w := range workers {
		all.hist.merge(&w.hist)
		all.messages += w.messages
		all.bytes += w.bytes
		all.errors += w.errors
		if all.firstError == "" {
			all.firstError = w.firstError
		}
	}
	r := Result{
		Messages: all.messages, Seconds: took, Errors: all.errors, FirstError: all.firstError,
		P50: all.hist.millis(0.5), P99: all.hist.millis(0.99), P999: all.hist.millis(0.999),
	}
	if took > 0 {
		r.PerSec, r.MBPerSec = float64(all.messages)/took, float64(all.bytes)/took/1e6
	}
	if all.messages == 0 {
		return r
	}
	perMessage := func(seconds float64) *float64 {
		us := seconds * 1e6 / float64(all.messages)
		return &us
	}
	if !math.IsNaN(client) {
		r.ClientCPU = perMessage(client)
	}
	if m.told {
		if after, err := m.server(); err == nil {
			r.ServerCPU = perMessage(after - m.before)
		}
	}
	return r
}
