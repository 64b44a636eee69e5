package consume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// judge watches what clients of an ordered group see, from outside (A5, A7, A9).
type judge struct {
	mu       sync.Mutex // guards all
	accepted map[string]int
	invoked  map[string]int // by key: the lowest number whose accept was not begun
	next     map[string]int // by key: the lowest number whose accept was not ok
	faults   []string
	crashed  bool
}

func (j *judge) complain(format string, args ...any) {
	if len(j.faults) < 10 {
		j.faults = append(j.faults, fmt.Sprintf(format, args...))
	}
}

// handle judges a message that a handler begins: all before it of its key were accepted, in this run or earlier.
func (j *judge) handle(key string, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n > j.invoked[key] {
		j.complain("key %s: %d was handled while %d was not accepted", key, n, j.invoked[key])
	}
	if n < j.next[key] && !j.crashed {
		j.complain("key %s: %d came again after its accept was ok", key, n)
	}
}

func (j *judge) begin(key string, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.invoked[key] = max(j.invoked[key], n+1)
}

func (j *judge) accept(key string, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.accepted[fmt.Sprint(key, "/", n)]++
	j.next[key] = max(j.next[key], n+1)
}

// client works on messages in order of their runs, and behaves badly now and then.
func (j *judge) client(ctx context.Context, w *world, e *Engine, rnd *rand.Rand) {
	s, err := e.Open(ctx, app, Subscription{Group: gname, Topics: []string{topic}, Lease: 2 * time.Second})
	if err != nil {
		return
	}
	defer s.Close(rnd.IntN(2) == 0)
	away := false
	for !away && ctx.Err() == nil {
		ds, err := s.Next(ctx, 1+rnd.IntN(30), time.Second)
		if err != nil {
			return
		}
		for len(s.Events()) > 0 {
			ev := <-s.Events()
			away = away || ev.GoAway != ""
		}
		ended := map[uint64]bool{} // runs that were broken off
		for _, d := range ds {
			if ended[d.Run] {
				continue
			}
			if time.Until(d.Deadline) < 500*time.Millisecond {
				ended[d.Run] = true // a good client does not begin what it cannot end in time
				continue
			}
			var n int
			_, _ = fmt.Sscan(string(d.Record.Body), &n)
			key := string(d.Record.Key)
			j.handle(key, n)
			time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
			action := Accept
			switch rnd.IntN(40) {
			case 0:
				action = Release
			case 1:
				ended[d.Run] = true // never answered: the lease runs out
				continue
			case 2:
				action = Return
			}
			if action == Accept {
				j.begin(key, n)
			}
			f := e.Settle(ctx, app, gname, acksOf(action, d))[0]
			if f != nil || action != Accept {
				ended[d.Run] = true
			}
			switch {
			case f == nil && action == Accept:
				j.accept(key, n)
			case f != nil && f.Reason != fault.Reassigned && f.Reason != fault.LeaseExpired:
				j.mu.Lock()
				j.complain("settle: %v", f)
				j.mu.Unlock()
			}
		}
	}
}

// TestOrderHoldsThroughRebalances: keyed messages, clients that release, hang, return and leave, nodes that come and
// go. Where nodes are killed, repeats of a key are allowed from where its commits stood, still in order.
func TestOrderHoldsThroughRebalances(t *testing.T) {
	for _, kills := range []bool{false, true} {
		for _, order := range []snapshot.Order{snapshot.OrderKey, snapshot.OrderPartition} {
			t.Run(fmt.Sprintf("kills=%v order=%d", kills, order), func(t *testing.T) {
				bubble(t, 4, func(t *testing.T, w *world) {
					seed := rand.Uint64()
					t.Logf("seed %d", seed)
					rnd := rand.New(rand.NewPCG(seed, 1))
					w.copies()
					w.group(snapshot.Settings{Order: order, Run: 5, MaxAttempts: 1000, BackoffMin: 100 * time.Millisecond, BackoffMax: time.Second})
					j := &judge{accepted: map[string]int{}, next: map[string]int{}, invoked: map[string]int{}, crashed: kills}
					w.storm(j, rnd, kills)
				})
			})
		}
	}
}

func (w *world) storm(j *judge, rnd *rand.Rand, kills bool) {
	const keys, each = 12, 100
	for n := range each {
		for k := range keys {
			w.fake.Append(part(k%4), mq.Record{Key: fmt.Appendf(nil, "k%d", k), Body: fmt.Append(nil, n)})
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	nodes := []string{}
	start := func(name string) {
		e := w.node(name, Config{})
		nodes = append(nodes, name)
		for range 2 {
			r := rand.New(rand.NewPCG(rnd.Uint64(), 2))
			clients.Go(func() { j.client(ctx, w, e, r) })
		}
	}
	start("a")
	start("b")
	for i := range 12 {
		time.Sleep(time.Duration(1+rnd.IntN(6)) * time.Second)
		start(fmt.Sprint("n", i))
		time.Sleep(time.Duration(1+rnd.IntN(6)) * time.Second)
		gone := nodes[rnd.IntN(len(nodes)-1)]
		nodes = slices.DeleteFunc(nodes, func(n string) bool { return n == gone })
		if kills {
			w.kill(gone)
		} else {
			w.drain(gone)
		}
		w.change(func(s *snapshot.Snapshot) { delete(s.Nodes, gone) })
	}
	for p := range 4 {
		w.committed(p, keys/4*each)
	}
	cancel()
	clients.Wait()
	for k := range keys {
		for n := range each {
			if j.accepted[fmt.Sprint("k", k, "/", n)] == 0 {
				j.complain("key k%d: %d was never accepted", k, n)
			}
		}
	}
	for _, f := range j.faults {
		w.t.Error(f)
	}
}
