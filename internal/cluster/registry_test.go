package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opened is a driver that knows from what it was opened, and whether it was closed.
type opened struct {
	mq.Driver
	password string
	closed   atomic.Bool
}

func (o *opened) Close(context.Context) error {
	o.closed.Store(true)
	return nil
}

type fixture struct {
	*Registry
	snaps *snapshot.Holder
	box   *secret.Box
	own   *opened
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	box, err := secret.NewBox(bytes.Repeat([]byte{1}, secret.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{snaps: snapshot.NewHolder(nil), box: box, own: &opened{}}
	f.Registry = New(Deps{
		Snapshots: f.snaps, Box: box, Node: "n1", Embedded: f.own, Grace: time.Minute, Log: slog.New(slog.DiscardHandler),
		Openers: map[mq.Kind]Opener{mq.Kafka: func(c *snapshot.Cluster, s Secrets, _ prometheus.Registerer) (mq.Driver, error) {
			if c.Bootstrap[0] == "bad" {
				return nil, errors.New("no such address")
			}
			return &opened{password: s.Password.Reveal()}, nil
		}},
	})
	return f
}

func (f *fixture) set(t *testing.T, version uint64, cs ...*snapshot.Cluster) {
	t.Helper()
	s := &snapshot.Snapshot{Version: version, StoreID: "s", Clusters: map[string]*snapshot.Cluster{}}
	for _, c := range cs {
		s.Clusters[c.Name] = c
	}
	if err := f.snaps.Set(s); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) kafka(t *testing.T, name, address, password string) *snapshot.Cluster {
	t.Helper()
	c := &snapshot.Cluster{Name: name, Kind: mq.Kafka, Bootstrap: []string{address}}
	sealed, err := f.box.Seal(c.PasswordPlace(), []byte(password))
	if err != nil {
		t.Fatal(err)
	}
	c.SealedPassword = sealed
	return c
}

func (f *fixture) driver(t *testing.T, name string) *opened {
	t.Helper()
	d, err := f.Driver(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.(*opened)
}

func TestRegistryFollowsTheSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		if _, err := f.Driver("k"); fault.ReasonOf(err) != fault.ClusterNotFound {
			t.Errorf("unknown: %v", err)
		}
		c := f.kafka(t, "k", "h:1", "pw1")
		f.set(t, 1, c)
		first := f.driver(t, "k")
		if first.password != "pw1" || f.driver(t, "k") != first {
			t.Error("not the same driver twice, with its password")
		}
		label := *c
		label.Side, label.Version = "other", 7
		f.set(t, 2, &label)
		if f.driver(t, "k") != first {
			t.Error("a label opened the cluster anew")
		}
		f.set(t, 3, f.kafka(t, "k", "h:2", "pw2"))
		second := f.driver(t, "k")
		if second == first || second.password != "pw2" {
			t.Error("new address, old driver")
		}
		synctest.Wait()
		if first.closed.Load() {
			t.Error("closed without a grace")
		}
		time.Sleep(time.Minute + time.Second) // of the bubble's clock
		synctest.Wait()
		if !first.closed.Load() || second.closed.Load() {
			t.Error("the old driver is open, or the new one closed, after the grace")
		}
		f.set(t, 4)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if !second.closed.Load() {
			t.Error("a removed cluster's driver stays open")
		}
		if err := f.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestRegistryClosesAllButTheEmbedded(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	own := &snapshot.Cluster{Name: "embedded", Kind: mq.Embedded, Node: "n1"}
	other := &snapshot.Cluster{Name: "far", Kind: mq.Embedded, Node: "n2"}
	f.set(t, 1, own, other, f.kafka(t, "a", "h:1", "x"), f.kafka(t, "b", "bad", "x"))
	if f.driver(t, "embedded") != f.own {
		t.Error("not the node's own driver")
	}
	if _, err := f.Driver("far"); fault.ReasonOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "n2") {
		t.Errorf("another node's store: %v", err)
	}
	if _, err := f.Driver("b"); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("bad address: %v", err)
	}
	a := f.driver(t, "a")
	f.set(t, 2, own, f.kafka(t, "a", "h:2", "x"))
	a2 := f.driver(t, "a")
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !a.closed.Load() || !a2.closed.Load() || f.own.closed.Load() {
		t.Error("wrong drivers closed")
	}
	if _, err := f.Driver("a"); fault.ReasonOf(err) != fault.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

func TestRegistryRefusesForeignCiphertexts(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	defer f.Close(t.Context())
	c := f.kafka(t, "k", "h:1", "pw")
	c.Name = "copy"
	f.set(t, 1, c)
	if _, err := f.Driver("copy"); !errors.Is(err, secret.ErrCorrupt) {
		t.Errorf("a password sealed for another cluster: %v", err)
	}
}

func TestRegistryOpensOnce(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	defer f.Close(t.Context())
	f.set(t, 1, f.kafka(t, "k", "h:1", "pw"))
	var wg sync.WaitGroup
	seen := make(chan mq.Driver, 32)
	for range 32 {
		wg.Go(func() {
			d, err := f.Driver("k")
			if err != nil {
				t.Error(err)
			}
			seen <- d
		})
	}
	wg.Wait()
	close(seen)
	first := <-seen
	for d := range seen {
		if d != first {
			t.Fatal("two drivers for one cluster")
		}
	}
}

func BenchmarkDriver(b *testing.B) {
	h := snapshot.NewHolder(nil)
	c := &snapshot.Cluster{Name: "k", Kind: mq.Kafka, Bootstrap: []string{"h:1"}}
	if err := h.Set(&snapshot.Snapshot{Version: 1, StoreID: "s", Clusters: map[string]*snapshot.Cluster{"k": c}}); err != nil {
		b.Fatal(err)
	}
	box, err := secret.NewBox(bytes.Repeat([]byte{1}, secret.KeyBytes))
	if err != nil {
		b.Fatal(err)
	}
	r := New(Deps{Snapshots: h, Box: box, Log: slog.New(slog.DiscardHandler), Openers: map[mq.Kind]Opener{mq.Kafka: func(*snapshot.Cluster, Secrets, prometheus.Registerer) (mq.Driver, error) { return &opened{}, nil }}})
	defer r.Close(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Driver("k"); err != nil {
			b.Fatal(err)
		}
	}
}
