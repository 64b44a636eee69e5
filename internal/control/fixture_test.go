package control

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var admin = auth.Who{Admin: true}

// odd are names that are legal and inconvenient.
var odd = []string{"a/b", "a#b", "50%", "..", "x@y", "日本"}

// fakes are clusters by name; a trial opens the fake of its first address, as often as it likes.
type fakes struct {
	mu   sync.Mutex
	byID map[string]*mqtest.Fake
	bad  map[string]error // by address
}

func (f *fakes) Driver(name string) (mq.Driver, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.byID[name]; d != nil {
		return d, nil
	}
	return nil, fault.New(fault.ClusterNotFound, "cluster %q is not there", name)
}

func (f *fakes) Trial(c *snapshot.Cluster) (mq.Driver, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := mqtest.NewFake(mqtest.FakeConfig{})
	if err := f.bad[c.Bootstrap[0]]; err != nil {
		return broken{d, err}, nil
	}
	if f.byID[c.Name] == nil {
		f.byID[c.Name] = mqtest.NewFake(mqtest.FakeConfig{})
	}
	return d, nil
}

// broken is a driver whose cluster does not answer.
type broken struct {
	mq.Driver
	err error
}

func (b broken) Caps(context.Context) (mq.Caps, error) { return mq.Caps{}, b.err }

// clock is a wall clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type fixture struct {
	*Service
	dir   string
	store *store.Store
	snaps *snapshot.Holder
	fakes *fakes
	clock *clock
	log   *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// setUp starts a control plane in dir (empty: a new one) with a fake as its embedded cluster.
func setUp(t *testing.T, cfg Config, dir string) *fixture {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	f := &fixture{dir: dir, snaps: snapshot.NewHolder(nil), clock: &clock{at: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)}, log: &syncBuffer{}}
	f.fakes = &fakes{byID: map[string]*mqtest.Fake{EmbeddedCluster: mqtest.NewFake(mqtest.FakeConfig{})}, bad: map[string]error{}}
	var err error
	if f.store, err = store.Open(t.Context(), filepath.Join(dir, "control.db"), f.clock.now); err != nil {
		t.Fatal(err)
	}
	key, err := secret.LoadOrCreateKey(filepath.Join(dir, "secret.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.NewBox(key)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ProbeEvery == 0 {
		cfg.ProbeEvery = 50 * time.Millisecond
	}
	now := f.clock.now
	if cfg.DeadAfter != 0 {
		now = time.Now // liveness runs on the real clock
	}
	f.Service, err = New(t.Context(), cfg, Deps{
		Self: snapshot.Node{Name: "n1", GRPC: "127.0.0.1:1", Roles: []string{"control"}}, Embedded: true,
		Store: f.store, Snapshots: f.snaps, Box: box, Clusters: f.fakes, Now: now,
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func (f *fixture) close() {
	if f.Service == nil {
		return
	}
	_ = f.Close(context.Background())
	for _, d := range f.fakes.byID {
		_ = d.Close(context.Background())
	}
	_ = f.store.Close()
	f.Service = nil
}

func (f *fixture) embedded() *mqtest.Fake { return f.fakes.byID[EmbeddedCluster] }

// eventually polls a condition; five seconds are far more than it takes.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // a poll with a deadline
	}
}

func wantReason(t *testing.T, err error, want fault.Reason) {
	t.Helper()
	if fault.ReasonOf(err) != want {
		t.Helper()
		t.Errorf("got %v, want reason %q", err, want)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var errRefused = mq.Errorf(mq.Conn, "connection refused")
