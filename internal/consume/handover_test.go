package consume

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// An accept that comes when the final position was taken would be lost with an ok: it is refused.
func TestAcceptAfterTheFinalPositionIsRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 2, 0)
		s := w.open(e)
		ds := w.want(s, 2)
		committing, goOn := make(chan struct{}), make(chan struct{})
		var once atomic.Bool
		w.fake.OnCommit(func(string, int64, mq.PartitionID, mq.Commit) error {
			if !once.Swap(true) {
				close(committing)
				<-goOn
			}
			return nil
		})
		done := make(chan struct{})
		go func() { w.drain("n1"); close(done) }()
		<-committing // the drain time is over, leases are still out
		w.settle(e, Accept, fault.Reassigned, ds...)
		close(goOn)
		<-done
		if c := w.fake.Commits(gname)[part(0)]; c.Offset != 0 {
			t.Errorf("committed %+v", c)
		}
	})
}

func TestTakeoverWaitsForLeasesOnlyAfterACrash(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{Takeover: "wait_lease"})
		e := w.node("n1", Config{})
		w.publish(0, 0, 9, 0)
		takeOne := func() time.Duration {
			start := time.Now()
			d := w.pull(w.open(e), 1, time.Minute)
			if len(d) != 1 {
				t.Fatalf("%d messages", len(d))
			}
			w.settle(e, Accept, "", d...)
			return time.Since(start)
		}
		if took := takeOne(); took != DefaultLease {
			t.Errorf("first owner, who cannot know: %v", took)
		}
		time.Sleep(time.Second)
		w.drain("n1")
		e = w.node("n1", Config{})
		if took := takeOne(); took > time.Second {
			t.Errorf("after a clean hand-over: %v", took)
		}
		w.kill("n1")
		e = w.node("n1", Config{})
		if took := takeOne(); took != DefaultLease {
			t.Errorf("after a crash: %v", took)
		}
	})
}

// remaking is a driver whose next fetch, once armed, finds the topic made anew.
type remaking struct {
	mq.Driver
	armed atomic.Bool
}

type remakingGroup struct {
	mq.Group
	d *remaking
}

func (d *remaking) Group(ctx context.Context, cfg mq.GroupConfig) (mq.Group, error) {
	g, err := d.Driver.Group(ctx, cfg)
	return remakingGroup{g, d}, err
}

func (g remakingGroup) Fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	if g.d.armed.CompareAndSwap(true, false) {
		return mq.Batch{Reset: &mq.Reset{Recreated: true}}, nil
	}
	return g.Group.Fetch(ctx, p, offset, l)
}

type remakingWorld struct {
	*world
	d *remaking
}

func (w remakingWorld) Driver(string) (mq.Driver, error) { return w.d, nil }

func TestTopicMadeAnewDropsWhatWasKnown(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		d := &remaking{Driver: w.fake}
		e := New(Config{}, Deps{Clusters: remakingWorld{w, d}, Control: w, Remote: w, Snapshot: w, Node: "n1"})
		w.engines["n1"] = e
		w.publish(0, 0, 50, 0)
		s := w.open(e)
		ds := w.want(s, 50)
		w.settle(e, Accept, "", ds[:40]...)
		w.committed(0, 40)
		d.armed.Store(true)
		time.Sleep(time.Minute) // the fetch that waits ends
		w.settle(e, Accept, fault.Reassigned, ds[40])
		again := w.want(s, 50)
		w.settle(e, Accept, "", again[1:]...)
		w.committed(0, 0)
		w.settle(e, Accept, "", again[0])
		w.committed(0, 50)
	})
}

func TestGroupNodesAreToldWhenTheyChange(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		s := w.open(e)
		synctest.Wait()
		w.node("n2", Config{})
		if ev := <-s.Events(); len(ev.Nodes) != 2 {
			t.Errorf("event %+v", ev)
		}
		if got, err := s.Next(context.Background(), 1, time.Hour); len(got) != 0 || err != nil {
			t.Errorf("next: %v, %v", got, err)
		}
		if n := e.GroupNodes(gname); len(n) != 2 {
			t.Errorf("%d nodes", len(n))
		}
	})
}

func TestServingNodes(t *testing.T) {
	t.Parallel()
	s := &snapshot.Snapshot{
		Clusters: map[string]*snapshot.Cluster{"k": {Kind: mq.Kafka}, "e": {Kind: mq.Embedded, Node: "n4"}},
		Topics: map[string]*snapshot.Topic{
			"two": {Homes: []snapshot.Home{{Cluster: "k", Topic: "two", Partitions: 2}}},
			"any": {Homes: []snapshot.Home{{Cluster: "k", Topic: "any"}}},
			"emb": {Homes: []snapshot.Home{{Cluster: "e", Topic: "emb"}}},
		},
		Groups: map[string]*snapshot.Group{}, Nodes: map[string]*snapshot.Node{},
	}
	for topic := range s.Topics {
		s.Groups[topic] = &snapshot.Group{Name: topic, Subscriptions: map[string]snapshot.Settings{topic: {}}}
	}
	s.Groups["five"] = &snapshot.Group{Nodes: 5, Subscriptions: map[string]snapshot.Settings{"any": {}}}
	for _, n := range []string{"n0", "n1", "n2", "n3", "n4", "n5", "n6"} {
		s.Nodes[n] = &snapshot.Node{Name: n, Alive: true, Roles: []string{"consumer"}}
	}
	s.Nodes["dead"] = &snapshot.Node{Name: "dead", Roles: []string{"consumer"}}
	s.Nodes["control"] = &snapshot.Node{Name: "control", Alive: true, Roles: []string{"control"}}
	for group, want := range map[string]int{"two": 2, "any": 3, "emb": 1, "five": 5} {
		nodes := serving(s, group)
		if len(nodes) != want {
			t.Errorf("group %s: %d nodes, want %d", group, len(nodes), want)
		}
		if group == "emb" && len(nodes) == 1 && nodes[0].Name != "n4" {
			t.Errorf("the embedded store's group is served by %s", nodes[0].Name)
		}
	}
	before := serving(s, "any")
	delete(s.Nodes, before[1].Name)
	after := serving(s, "any")
	if after[0] != before[0] || after[1] != before[2] {
		t.Error("a node that left moved the others")
	}
}

func TestBudgetIsNeverOverdrawn(t *testing.T) {
	t.Parallel()
	b := budget{total: 512 << 20, floor: 64 << 10, most: 4 << 20}
	b.lanes.Store(2000)
	var held [2000]int64
	for range 200 { // all ask at once, all get what they asked for, nobody reads
		var asks [2000]int64
		for i := range asks {
			asks[i] = int64(b.grant(held[i], held[i]))
		}
		var sum int64
		for i, n := range asks {
			b.moved(held[i], held[i]+n)
			held[i] += n
			sum += held[i]
		}
		if sum > b.total {
			t.Fatalf("%d bytes of %d", sum, b.total)
		}
	}
	if held[0] < b.floor {
		t.Errorf("a lane has %d bytes", held[0])
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
	if err := (Config{Window: 30_000, MaxLanes: -1}).Validate(); err == nil {
		t.Error("no error")
	}
	newMetrics(prometheus.NewRegistry(), Config{}.WithDefaults())
}
