package consume

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// manual makes the test the coordinator and gives n1 the partition.
func (w *world) manual() {
	w.fake.Manual(gname)
}

// Regression 1: the same offset is fetched again in a new epoch while the old lease is out: it is delivered.
func TestRegression1RefetchedOffsetIsDelivered(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.manual()
		e := w.node("n1", Config{})
		w.publish(0, 0, 1, 0)
		s := w.open(e)
		w.members(1)
		w.fake.Assign(gname, "sluice-n1", part(0))
		old := w.want(s, 1)[0]
		w.fake.Lose(gname, "sluice-n1", part(0))
		w.fake.Assign(gname, "sluice-n1", part(0))
		again := w.want(s, 1)[0]
		w.settle(e, Accept, fault.Reassigned, old)
		w.settle(e, Accept, "", again)
		w.committed(0, 1)
	})
}

// Regression 2: what was leased under an old epoch does not count against the client's in-flight limit.
func TestRegression2StaleLeasesFreeTheClient(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.manual()
		e := w.node("n1", Config{})
		w.publish(0, 0, 3, 0)
		s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 3 })
		w.members(1)
		w.fake.Assign(gname, "sluice-n1", part(0))
		w.want(s, 3)
		w.fake.Lose(gname, "sluice-n1", part(0))
		w.fake.Assign(gname, "sluice-n1", part(0))
		w.want(s, 3)
		var revoked int
		for len(s.Events()) > 0 {
			ev := <-s.Events()
			revoked += len(ev.Revoked)
		}
		if revoked != 3 {
			t.Errorf("the client was told of %d revoked receipts", revoked)
		}
	})
}

// Regression 3: the group's size flaps for an hour: nothing is lost, the committed offset moves on and stays below the end.
func TestRegression3FlappingGroup(t *testing.T) {
	bubble(t, 6, func(t *testing.T, w *world) {
		var mu sync.Mutex // guards accepted
		accepted := map[string]int{}
		ctx, cancel := context.WithCancel(context.Background())
		var clients sync.WaitGroup
		consumeOn := func(e *Engine) {
			s := w.open(e)
			clients.Go(func() {
				defer s.Close(false)
				for ctx.Err() == nil {
					ds, err := s.Next(ctx, 50, 5*time.Second)
					if err != nil {
						return
					}
					select {
					case ev := <-s.Events():
						if ev.GoAway != "" {
							e.Settle(ctx, app, gname, acksOf(Accept, ds...))
							return
						}
					default:
					}
					time.Sleep(10 * time.Millisecond)
					for i, f := range e.Settle(ctx, app, gname, acksOf(Accept, ds...)) {
						if f == nil {
							mu.Lock()
							accepted[string(ds[i].Record.Body)]++
							mu.Unlock()
						}
					}
				}
			})
		}
		for i := range 3 {
			consumeOn(w.node(fmt.Sprintf("n%d", i), Config{}))
		}
		total := 0
		for round := range 60 {
			for p := range 6 {
				w.publish(p, total, 20, 5)
				total += 20
			}
			name := fmt.Sprintf("flap%d", round)
			consumeOn(w.node(name, Config{}))
			time.Sleep(30 * time.Second)
			w.drain(name)
			w.change(func(s *snapshot.Snapshot) { delete(s.Nodes, name) })
			time.Sleep(30 * time.Second)
			for id, c := range w.fake.Commits(gname) {
				if end := int64(len(w.fake.Records(id))); c.Offset > end {
					t.Fatalf("partition %s: committed %d, the end is %d", id, c.Offset, end)
				}
			}
		}
		for p := range 6 {
			w.committed(p, int64(total/6))
		}
		cancel()
		clients.Wait()
		repeats := 0
		for i := range total {
			if n := accepted[fmt.Sprint(i)]; n == 0 {
				t.Errorf("message %d was not accepted", i)
			} else if n > 1 {
				repeats++
			}
		}
		if repeats > 0 {
			t.Errorf("%d messages were accepted twice, without a fault", repeats)
		}
	})
}

// Regression 4: one message fails for ever while others succeed, and the dead letters cannot be written: never
// committed past it, not lost at a restart.
func TestRegression4PoisonMessage(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.copies()
		var refuse atomic.Bool
		refuse.Store(true)
		w.group(snapshot.Settings{MaxAttempts: 2})
		e := w.node("n1", Config{})
		w.publish(0, 0, 5, 0)
		s := w.open(e)
		ds := w.want(s, 5)
		w.fake.OnProduce(func(mqtest.Attempt) mqtest.Outcome {
			if refuse.Load() {
				return mqtest.Refuse(mq.TooFewReplicas)
			}
			return mqtest.Outcome{}
		})
		w.settle(e, Accept, "", append(ds[:2:2], ds[3:]...)...)
		w.settle(e, Release, "", ds[2])
		w.settle(e, Release, "", w.want(s, 1)...)
		time.Sleep(time.Minute)
		c := w.fake.Commits(gname)[part(0)]
		if c.Offset != 2 {
			t.Fatalf("committed %+v, past a message that is nowhere", c)
		}
		if m, ok := ackmap.Decode(c.Map, "id-1", 2); !ok || !m.Done(1) || !m.Done(2) {
			t.Errorf("map %+v (%v)", m, ok)
		}
		if lanes, _ := e.Status(gname); !strings.Contains(lanes[len(lanes)-1].Blocked, "dead letters") && !strings.Contains(lanes[0].Blocked, "dead letters") {
			t.Errorf("status does not say why: %+v", lanes)
		}
		w.kill("n1")
		e = w.node("n1", Config{})
		s = w.open(e)
		again := w.want(s, 1)
		if bodies(again) != "[2]" {
			t.Fatalf("after a restart: %s", bodies(again))
		}
		refuse.Store(false)
		w.settle(e, Reject, "", again...)
		w.committed(0, 5)
	})
}

// Regression 5: a message waits for its next attempt while the partition is revoked: it is delivered again, not given up.
func TestRegression5RetryWhileRevoked(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.copies()
		w.manual()
		w.group(snapshot.Settings{MaxAttempts: 2})
		e := w.node("n1", Config{})
		w.publish(0, 0, 1, 0)
		s := w.open(e)
		w.members(1)
		w.fake.Assign(gname, "sluice-n1", part(0))
		w.settle(e, Release, "", w.want(s, 1)...)
		w.fake.Assign(gname, "sluice-n1")
		time.Sleep(10 * time.Second)
		w.fake.Assign(gname, "sluice-n1", part(0))
		w.settle(e, Accept, "", w.want(s, 1)...)
		w.committed(0, 1)
		if n := len(w.fake.Records(mq.PartitionID{Topic: mq.DeadLetterTopic(gname)})); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// Regression 6: a commit that is refused during a rebalance is tried again.
func TestRegression6CommitDuringRebalance(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 2, 0)
		s := w.open(e)
		ds := w.want(s, 2)
		left := 5
		w.fake.OnCommit(func(string, int64, mq.PartitionID, mq.Commit) error {
			if left--; left >= 0 {
				return mq.Errorf(mq.Busy, "rebalance in progress")
			}
			return nil
		})
		w.settle(e, Accept, "", ds...)
		w.committed(0, 2)
		if lanes, _ := e.Status(gname); len(lanes) != 1 {
			t.Errorf("lanes %+v", lanes)
		}
	})
}

// Regression 7: a node dies with leases out: an accept at another node is recorded or refused with a clear reason.
func TestRegression7AckAtAnotherNode(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		n1, n2 := w.node("n1", Config{}), w.node("n2", Config{})
		w.publish(0, 0, 2, 0)
		w.publish(1, 2, 2, 0)
		s1, s2 := w.open(n1), w.open(n2)
		w.members(2)
		time.Sleep(time.Second)
		d1, d2 := w.want(s1, 2), w.want(s2, 2)
		w.settle(n2, Accept, "", d1[0]) // forwarded
		w.settle(n1, Accept, "", d2...)
		w.kill("n1")
		w.settle(n2, Accept, fault.Unavailable, d1[1]) // not yet known to be dead
		w.change(func(s *snapshot.Snapshot) { s.Nodes["n1"].Alive = false })
		w.settle(n2, Accept, fault.Unavailable, d1[1])
		w.change(func(s *snapshot.Snapshot) { delete(s.Nodes, "n1") })
		w.settle(n2, Accept, fault.Reassigned, d1[1])
		again := w.pull(s2, 2, 20*time.Second)
		for _, d := range again {
			w.settle(n2, Accept, "", d)
		}
		w.settle(n2, Accept, fault.Reassigned, d1[1])
	})
}

// A stale owner's accept is refused after a clean hand-over too, and its commit.
func TestStaleOwnerIsFenced(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.manual()
		n1, n2 := w.node("n1", Config{}), w.node("n2", Config{})
		w.publish(0, 0, 2, 0)
		s1, s2 := w.open(n1), w.open(n2)
		w.members(2)
		w.fake.Assign(gname, "sluice-n1", part(0))
		d := w.want(s1, 2)
		w.fake.OnCommit(func(_ string, epoch int64, _ mq.PartitionID, _ mq.Commit) error {
			if epoch < 2 {
				return mq.Errorf(mq.Fenced, "not yours")
			}
			return nil
		})
		w.settle(n1, Accept, "", d[0]) // it does not know yet
		time.Sleep(time.Second)
		w.settle(n1, Accept, fault.Reassigned, d[1])
		w.fake.Lose(gname, "sluice-n1", part(0))
		w.fake.Assign(gname, "sluice-n2", part(0))
		if ds := w.want(s2, 2); bodies(ds) != "[0 1]" {
			t.Errorf("new owner: %s", bodies(ds))
		}
	})
}

// Regression 9: N-1 of N are accepted, the owner is killed: only the last one comes again.
func TestRegression9AckedOnesAreNotRepeated(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 100, 0)
		s := w.open(e)
		ds := w.want(s, 100)
		w.settle(e, Accept, "", ds[1:]...)
		time.Sleep(time.Second)
		w.kill("n1")
		e = w.node("n1", Config{})
		if again := w.pull(w.open(e), 100, 5*time.Second); bodies(again) != "[0]" {
			t.Errorf("again: %s", bodies(again))
		}
	})
}

// Regression 15: a client never answers: polling stops, memory stays flat, others go on.
func TestRegression15WindowFull(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{Window: 100})
		w.publish(0, 0, 1000, 0)
		s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 1000; sub.Lease = time.Hour })
		head := w.want(s, 1)
		var ds []Delivery
		for {
			got := w.pull(s, 100, time.Second)
			if len(got) == 0 {
				break
			}
			w.settle(e, Accept, "", got...)
			ds = append(ds, got...)
		}
		lanes, _ := e.Status(gname)
		if len(ds) != 99 || lanes[0].Window != 100 || lanes[0].Blocked == "" || lanes[0].Fetched > 300 {
			t.Fatalf("%d messages behind the head, lane %+v", len(ds), lanes[0])
		}
		w.settle(e, Accept, "", head...)
		w.want(s, 100)
	})
}

// Regression 16: the in-flight limit is not a rate limit: 1,000 messages pass a limit of 1 without waiting.
func TestRegression16InFlightIsNoRate(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 1000, 0)
		s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 1 })
		w.settle(e, Accept, "", w.want(s, 1)...)
		start := time.Now()
		for range 999 {
			ds := w.want(s, 1)
			if more := w.pull(s, 1, 0); len(more) != 0 {
				t.Fatal("more than the limit")
			}
			w.settle(e, Accept, "", ds...)
		}
		if took := time.Since(start); took > time.Millisecond {
			t.Errorf("took %v of fake time", took)
		}
	})
}

// A waiting pull goes on when a lease ends elsewhere.
func TestFullClientIsWokenByAnAnswer(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		e := w.node("n1", Config{})
		w.publish(0, 0, 2, 0)
		s := w.open(e, func(sub *Subscription) { sub.MaxInFlight = 1 })
		first := w.want(s, 1)
		got := make(chan []Delivery)
		go func() { got <- w.pull(s, 1, 20*time.Second) }()
		synctest.Wait()
		start := time.Now()
		w.settle(e, Accept, "", first...)
		if ds := <-got; len(ds) != 1 || time.Since(start) > 0 {
			t.Errorf("%d messages after %v", len(ds), time.Since(start))
		}
	})
}

// Regression 17: settings change while messages are out: partitions stay, nothing is delivered again.
func TestRegression17SettingsChangeWhileRunning(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		w.group(snapshot.Settings{})
		e := w.node("n1", Config{})
		w.publish(0, 0, 20, 3)
		s := w.open(e)
		out := w.want(s, 5)
		joins := 0
		w.fake.OnJoin(func(mq.GroupConfig) error { joins++; return nil })
		for _, st := range []snapshot.Settings{{Order: snapshot.OrderKey}, {Order: snapshot.OrderPartition, MaxAttempts: 3}, {Run: 2}, {BackoffMin: time.Minute}} {
			w.group(st)
			synctest.Wait()
		}
		w.settle(e, Accept, "", out...)
		rest := w.want(s, 15)
		w.settle(e, Accept, "", rest...)
		seen := map[string]bool{}
		for _, d := range append(out, rest...) {
			if seen[d.ID] || d.Attempt != 1 {
				t.Errorf("%s came again (attempt %d)", d.ID, d.Attempt)
			}
			seen[d.ID] = true
		}
		w.committed(0, 20)
		if joins != 0 {
			t.Errorf("joined %d times more", joins)
		}
	})
}

// Regression 18, the engine's part: a node drains while its clients work: no error, no repeat.
func TestRegression18DrainRepeatsNothing(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		n1, n2 := w.node("n1", Config{}), w.node("n2", Config{})
		s1, s2 := w.open(n1), w.open(n2)
		w.members(2)
		w.publish(0, 0, 50, 0)
		w.publish(1, 50, 50, 0)
		d1 := w.want(s1, 10)
		done := make(chan struct{})
		go func() { w.drain("n1"); close(done) }()
		time.Sleep(time.Second)
		w.settle(n1, Accept, "", d1...)
		<-done
		w.change(func(s *snapshot.Snapshot) { delete(s.Nodes, "n1") })
		rest := w.want(s2, 90)
		seen := map[string]bool{}
		for _, d := range append(d1, rest...) {
			if seen[d.ID] {
				t.Errorf("%s came twice", d.ID)
			}
			seen[d.ID] = true
		}
		s1.Close(false)
	})
}
