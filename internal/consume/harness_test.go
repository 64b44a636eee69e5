package consume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// world is a fake cluster, a snapshot that the test changes, and engines as nodes.
type world struct {
	t    testing.TB
	fake *mqtest.Fake

	mu      sync.Mutex // guards the rest
	snap    *snapshot.Snapshot
	changed chan struct{}
	engines map[string]*Engine
	ensured int
}

const (
	cluster = "c1"
	topic   = "orders"
	gname   = "billing"
)

var app = auth.Who{App: "app"}

// bubble runs a test in a synctest bubble with a topic of so many partitions.
func bubble(t *testing.T, partitions int, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, partitions)
		defer w.close()
		fn(t, w)
	})
}

func newWorld(t testing.TB, partitions int) *world {
	w := &world{
		t: t, fake: mqtest.NewFake(mqtest.FakeConfig{}), changed: make(chan struct{}), engines: map[string]*Engine{},
		snap: &snapshot.Snapshot{
			Clusters: map[string]*snapshot.Cluster{cluster: {Name: cluster, Kind: mq.Kafka}},
			Topics:   map[string]*snapshot.Topic{topic: {Name: topic, Homes: []snapshot.Home{{Cluster: cluster, Topic: topic}}}},
			Groups:   map[string]*snapshot.Group{}, Nodes: map[string]*snapshot.Node{},
			ReceiptKeys: []snapshot.ReceiptKey{{ID: 1, Key: bytes.Repeat([]byte{7}, 32)}},
		},
	}
	w.fake.AddTopic(topic, partitions)
	return w
}

// change makes a new snapshot.
func (w *world) change(fn func(s *snapshot.Snapshot)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := *w.snap
	next.Version++
	next.Groups, next.Nodes = clonePointers(w.snap.Groups), clonePointers(w.snap.Nodes)
	fn(&next)
	w.snap = &next
	close(w.changed)
	w.changed = make(chan struct{})
}

func clonePointers[T any](m map[string]*T) map[string]*T {
	out := make(map[string]*T, len(m))
	for k, v := range m {
		c := *v
		out[k] = &c
	}
	return out
}

// group stores the group's settings.
func (w *world) group(st snapshot.Settings) {
	w.change(func(s *snapshot.Snapshot) {
		s.Groups[gname] = &snapshot.Group{Name: gname, Subscriptions: map[string]snapshot.Settings{topic: st}}
	})
}

func (w *world) copies() {
	w.fake.AddTopic(mq.RetryTopic(gname), 1)
	w.fake.AddTopic(mq.DeadLetterTopic(gname), 1)
}

func (w *world) Current() *snapshot.Snapshot { w.mu.Lock(); defer w.mu.Unlock(); return w.snap }
func (w *world) Changed() <-chan struct{}    { w.mu.Lock(); defer w.mu.Unlock(); return w.changed }

func (w *world) Driver(name string) (mq.Driver, error) {
	if name != cluster {
		return nil, errors.New("no such cluster")
	}
	return w.fake, nil
}

func (w *world) EnsureTopic(context.Context, string) error {
	return fault.New(fault.TopicNotFound, "no such topic")
}

func (w *world) EnsureSubscription(_ context.Context, group string, settings map[string]snapshot.Settings) error {
	w.change(func(s *snapshot.Snapshot) {
		w.ensured++
		s.Groups[group] = &snapshot.Group{Name: group, Subscriptions: settings}
	})
	return nil
}

// Settle is the way to a neighbour.
func (w *world) Settle(ctx context.Context, node, app, group string, acks []Ack) []*fault.Error {
	w.mu.Lock()
	e := w.engines[node]
	w.mu.Unlock()
	if e == nil {
		out := make([]*fault.Error, len(acks))
		for i := range out {
			f := *fault.New(fault.Unavailable, "node %s does not answer", node)
			f.MaybeSent = true
			out[i] = &f
		}
		return out
	}
	return e.Settle(ctx, auth.Who{App: app}, group, acks)
}

// node starts an engine.
func (w *world) node(name string, cfg Config) *Engine {
	e := New(cfg, Deps{
		Clusters: w, Control: w, Remote: w, Snapshot: w, Node: name, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	w.mu.Lock()
	w.engines[name] = e
	w.mu.Unlock()
	w.change(func(s *snapshot.Snapshot) {
		s.Nodes[name] = &snapshot.Node{Name: name, GRPC: name + ":7600", Roles: []string{"consumer"}, Alive: true}
	})
	return e
}

// kill ends an engine without any goodbye to the clients or the snapshot; the broker is told as when a session ends.
func (w *world) kill(name string) {
	w.mu.Lock()
	e := w.engines[name]
	delete(w.engines, name)
	w.mu.Unlock()
	e.stop()
	e.work.Wait()
}

func (w *world) drain(name string) {
	w.mu.Lock()
	e := w.engines[name]
	delete(w.engines, name)
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.Drain(ctx); err != nil {
		w.t.Errorf("drain of %s: %v", name, err)
	}
}

func (w *world) close() {
	w.mu.Lock()
	var names []string
	for n := range w.engines {
		names = append(names, n)
	}
	w.mu.Unlock()
	for _, n := range names {
		w.kill(n)
	}
	_ = w.fake.Close(context.Background())
}

func part(i int) mq.PartitionID { return mq.PartitionID{Topic: topic, Index: int32(i)} }

// publish appends n messages "from"... to a partition, with keys k0 to k(keys-1), none for 0.
func (w *world) publish(p, from, n, keys int) {
	rs := make([]mq.Record, n)
	for i := range rs {
		rs[i] = mq.Record{Body: fmt.Appendf(nil, "%d", from+i), Headers: []mq.Header{
			{Name: mq.HeaderID, Value: fmt.Appendf(nil, "id-%d", from+i)}, {Name: "h", Value: []byte("v")},
		}}
		if keys > 0 {
			rs[i].Key = fmt.Appendf(nil, "k%d", (from+i)%keys)
		}
	}
	w.fake.Append(part(p), rs...)
}

func (w *world) open(e *Engine, change ...func(*Subscription)) Session {
	w.t.Helper()
	sub := Subscription{Group: gname, Topics: []string{topic}}
	for _, fn := range change {
		fn(&sub)
	}
	s, err := e.Open(context.Background(), app, sub)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	return s
}

// pull leases until it has n messages or nothing came for wait.
func (w *world) pull(s Session, n int, wait time.Duration) []Delivery {
	w.t.Helper()
	var ds []Delivery
	for end := time.Now().Add(wait); len(ds) < n && time.Now().Before(end); {
		got, err := s.Next(context.Background(), n-len(ds), time.Until(end))
		if err != nil {
			w.t.Fatalf("next: %v", err)
		}
		ds = append(ds, got...)
	}
	return ds
}

func (w *world) want(s Session, n int) []Delivery {
	w.t.Helper()
	ds := w.pull(s, n, 30*time.Second)
	if len(ds) != n {
		w.t.Fatalf("%d messages came, want %d", len(ds), n)
	}
	return ds
}

func acksOf(a Action, ds ...Delivery) []Ack {
	acks := make([]Ack, len(ds))
	for i := range ds {
		acks[i] = Ack{Receipt: ds[i].Receipt, Action: a}
	}
	return acks
}

// settle wants every answer to get this reason ("" is ok).
func (w *world) settle(e *Engine, a Action, want fault.Reason, ds ...Delivery) {
	w.t.Helper()
	for i, f := range e.Settle(context.Background(), app, gname, acksOf(a, ds...)) {
		got := fault.Reason("")
		if f != nil {
			got = f.Reason
		}
		if got != want {
			w.t.Fatalf("action %d on offset %d: %q, want %q (%v)", a, ds[i].Offset, got, want, f)
		}
	}
}

// committed waits until the partition's position is offset.
func (w *world) committed(p int, offset int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.fake.Await(ctx, func() bool { return w.fake.Commits(gname)[part(p)].Offset == offset }); err != nil {
		w.t.Fatalf("partition %d: committed %+v, want %d", p, w.fake.Commits(gname)[part(p)], offset)
	}
}

func (w *world) members(n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.fake.Await(ctx, func() bool { return len(w.fake.Members(gname)) == n }); err != nil {
		w.t.Fatalf("members %v, want %d", w.fake.Members(gname), n)
	}
}

func bodies(ds []Delivery) string {
	var out []string
	for _, d := range ds {
		out = append(out, string(d.Record.Body))
	}
	return fmt.Sprint(out)
}

func headerOf(r mq.Record, name string) string {
	for _, h := range r.Headers {
		if h.Name == name {
			return string(h.Value)
		}
	}
	return "<none>"
}
