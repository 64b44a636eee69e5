package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
)

func TestMain(m *testing.M) { mqtest.Main(m) }

func TestStoreConforms(t *testing.T) {
	t.Parallel()
	mqtest.Run(t, func(t *testing.T) mq.Driver {
		return openStore(t, Config{Dir: t.TempDir(), MinFreeBytes: 1})
	}, mqtest.Patience(20*time.Second))
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openStore opens a store on disk that the test closes.
func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), cfg, quiet(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// openMem opens a store in memory; now may be nil.
func openMem(t testing.TB, fs vfs.FS, cfg Config, now func() time.Time) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = "/some/store"
	}
	if now == nil {
		now = time.Now
	}
	s, err := open(context.Background(), cfg, quiet(), prometheus.NewRegistry(), fs, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
}

func createTopic(t testing.TB, s *Store, name mq.Topic, n int, config map[string]string) {
	t.Helper()
	if err := s.Admin().CreateTopic(context.Background(), mq.TopicSpec{Name: name, Partitions: n, Config: config}); err != nil {
		t.Fatal(err)
	}
}

func produce(s *Store, p mq.PartitionID, records ...mq.Record) []mq.Result {
	done := make(chan []mq.Result, 1)
	s.Producer().Produce(context.Background(), p, records, func(rs []mq.Result) { done <- rs })
	return <-done
}

// put produces bodies, all of which have to be stored, and returns the last offset.
func put(t testing.TB, s *Store, p mq.PartitionID, bodies ...string) int64 {
	t.Helper()
	records := make([]mq.Record, len(bodies))
	for i, b := range bodies {
		records[i].Body = []byte(b)
	}
	last := int64(-1)
	for _, r := range produce(s, p, records...) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		last = r.Offset
	}
	return last
}

// bodies reads everything from an offset on.
func bodies(t testing.TB, s *Store, p mq.PartitionID, from int64) []string {
	t.Helper()
	var out []string
	for {
		b, err := s.Reader().Fetch(context.Background(), p, from, mq.Limits{MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if b.Reset != nil {
			from = b.Next
			continue
		}
		for _, r := range b.Records {
			out = append(out, string(r.Body))
		}
		if b.Next == b.HighWatermark {
			return out
		}
		from = b.Next
	}
}

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}
