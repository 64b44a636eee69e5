package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// world is a naive model of the nodes and of one broker behind them: each stream is a pipe of batches, judged in order,
// answered in any order.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	now  time.Time
	m    *Machine
	pipe map[StreamID]*pipe
	old  []*pipe // lost for the client, still working at the node

	items   []*Item
	results map[uint64]Done
	doneAt  map[uint64]int // number of items added when the result came
	store   []uint64       // sequences in the order they were stored
	stored  map[uint64]int
	calm    bool
}

type pipe struct {
	id      StreamID
	batches []batch
	answers []answer
	blocked map[string]uint64
	leaving bool
	lost    bool
}

type batch struct {
	request uint64
	items   []*Item
	until   time.Time
}

type answer struct {
	request  uint64
	verdicts []Verdict
}

var errModel = errors.New("model")

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_000_000, 0), pipe: map[StreamID]*pipe{},
		results: map[uint64]Done{}, doneAt: map[uint64]int{}, stored: map[uint64]int{},
	}
	w.m = New(Config{
		Linger: 2 * time.Millisecond, MaxBatchBytes: 500, MaxBatchMessages: 1 + w.rng.IntN(6), MaxRequests: 1 + w.rng.IntN(4),
		Grace: 500 * time.Millisecond, Backoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	})
	return w
}

func (w *world) add() {
	it := &Item{Sequence: uint64(len(w.items) + 1), Size: 10 + w.rng.IntN(90), Deadline: w.now.Add(time.Duration(20+w.rng.IntN(3000)) * time.Millisecond)}
	if w.rng.IntN(4) > 0 {
		it.Key = fmt.Appendf(nil, "k%d", w.rng.IntN(4))
	}
	w.items = append(w.items, it)
	w.m.Add(w.now, it)
}

// obey carries out the machine's commands.
func (w *world) obey() {
	w.m.Tick(w.now)
	c := w.m.Take()
	for _, s := range c.Sends {
		for _, it := range s.Items {
			if !it.Deadline.After(w.now) {
				w.t.Fatalf("item %d sent at or after its deadline", it.Sequence)
			}
		}
		if p := w.pipe[s.Stream]; p == nil || p.leaving {
			w.t.Fatalf("request %d sent on stream %d, which is gone or wants no more", s.Request, s.Stream)
		} else {
			p.batches = append(p.batches, batch{s.Request, append([]*Item(nil), s.Items...), w.now.Add(s.Timeout)})
		}
	}
	for _, id := range append(c.Close, c.Drop...) {
		if p := w.pipe[id]; p != nil {
			w.old = append(w.old, p)
			delete(w.pipe, id)
		}
	}
	for _, d := range c.Done {
		if prev, twice := w.results[d.Item.Sequence]; twice {
			w.t.Fatalf("item %d has two results: %v, %v", d.Item.Sequence, prev, d)
		}
		w.results[d.Item.Sequence] = d
		w.doneAt[d.Item.Sequence] = len(w.items)
	}
	if c.Open != 0 {
		if !w.calm && w.rng.IntN(4) == 0 {
			w.m.Lost(w.now, c.Open)
		} else {
			w.pipe[c.Open] = &pipe{id: c.Open, blocked: map[string]uint64{}}
			w.m.Opened(w.now, c.Open)
		}
		w.obey()
	}
}

// judge works on the next batch of a pipe as a node does.
func (w *world) judge(p *pipe) {
	if len(p.batches) == 0 {
		return
	}
	b := p.batches[0]
	p.batches = p.batches[1:]
	a := answer{request: b.request}
	for _, it := range b.items {
		a.verdicts = append(a.verdicts, w.judgeItem(p, it, b.until))
	}
	p.answers = append(p.answers, a)
}

func (w *world) judgeItem(p *pipe, it *Item, until time.Time) Verdict {
	k := string(it.Key)
	if it.Key != nil {
		if seq, ok := p.blocked[k]; ok && seq != it.Sequence {
			return Verdict{Status: NotSent, Retry: true, Preceding: true, Err: errModel}
		}
		delete(p.blocked, k)
	}
	v := Verdict{Status: Stored}
	if !until.After(w.now) {
		v = Verdict{Status: NotSent, Retry: true, Err: errModel}
	} else if !w.calm {
		switch w.rng.IntN(14) {
		case 0:
			v = Verdict{Status: NotSent, Retry: true, Err: errModel}
		case 1:
			v = Verdict{Status: NotSent, Retry: true, SlowDown: true, After: time.Duration(w.rng.IntN(20)) * time.Millisecond, Err: errModel}
		case 2:
			v = Verdict{Status: Refused, Err: errModel}
		case 3:
			v = Verdict{Status: MaybeSent, Err: errModel}
		}
	}
	if v.Status == Stored || (v.Status == MaybeSent && w.rng.IntN(2) == 0) {
		w.store = append(w.store, it.Sequence)
		w.stored[it.Sequence]++
	}
	if v.Status >= NotSent && it.Key != nil {
		p.blocked[k] = it.Sequence
	}
	return v
}

func (w *world) step() {
	p := w.anyPipe()
	switch r := w.rng.IntN(20); {
	case r < 7 && !w.calm:
		w.add()
	case r < 11:
		if p != nil {
			w.judge(p)
		}
		if len(w.old) > 0 && w.rng.IntN(2) == 0 {
			w.judge(w.old[w.rng.IntN(len(w.old))])
		}
	case r < 15:
		if p != nil && len(p.answers) > 0 {
			i := w.rng.IntN(len(p.answers))
			a := p.answers[i]
			p.answers = append(p.answers[:i], p.answers[i+1:]...)
			w.m.Answer(w.now, a.request, a.verdicts)
		}
	case r == 15 && !w.calm:
		if p != nil {
			p.lost = true
			delete(w.pipe, p.id)
			w.old = append(w.old, p)
			w.m.Lost(w.now, p.id)
		}
	case r == 16 && !w.calm:
		if p != nil {
			p.leaving = true
			w.m.GoAway(w.now, p.id)
		}
	case r == 17 && !w.calm && w.rng.IntN(4) == 0 && len(w.items) > 0:
		w.m.Cancel(w.now, w.items[w.rng.IntN(len(w.items))])
	case r == 18 && w.rng.IntN(4) == 0:
		w.m.Flush()
	default:
		w.now = w.now.Add(time.Duration(w.rng.IntN(8)) * time.Millisecond)
	}
	w.obey()
}

func (w *world) anyPipe() *pipe {
	if len(w.pipe) == 0 {
		return nil
	}
	n := w.rng.IntN(len(w.pipe))
	// In the order of ids, so that a seed replays.
	for id := StreamID(0); ; id++ {
		if p := w.pipe[id]; p != nil {
			if n == 0 {
				return p
			}
			n--
		}
	}
}

func (w *world) check() {
	if w.m.Len() != 0 || len(w.results) != len(w.items) {
		w.t.Fatalf("%d of %d items have a result, %d are unresolved", len(w.results), len(w.items), w.m.Len())
	}
	last, seen := map[string]uint64{}, map[uint64]bool{}
	for _, seq := range w.store {
		it := w.items[seq-1]
		// What was given up as maybe sent may still be stored late by a node that the client lost.
		if it.Key == nil || seen[seq] || w.results[seq].Status == MaybeSent {
			continue
		}
		seen[seq] = true
		if last[string(it.Key)] > seq {
			w.t.Fatalf("key %s: %d first stored after %d", it.Key, seq, last[string(it.Key)])
		}
		last[string(it.Key)] = seq
	}
	for _, it := range w.items {
		d := w.results[it.Sequence]
		switch d.Status {
		case Stored:
			if w.stored[it.Sequence] == 0 {
				w.t.Fatalf("item %d reported stored, but is not", it.Sequence)
			}
		case NotSent, Refused:
			if w.stored[it.Sequence] > 0 {
				w.t.Fatalf("item %d reported %v (why %v), but is stored", it.Sequence, d.Status, d.Why)
			}
			for _, later := range w.items[it.Sequence:w.doneAt[it.Sequence]] {
				if it.Key != nil && string(later.Key) == string(it.Key) && w.stored[later.Sequence] > 0 {
					w.t.Fatalf("item %d of key %s failed, but %d, handed over before that, is stored", it.Sequence, it.Key, later.Sequence)
				}
			}
		default: // it may be stored or not
		}
	}
}

// TestMachineAgainstModel runs random losses, go-aways, failures, cancellations and reordered answers.
func TestMachineAgainstModel(t *testing.T) {
	t.Parallel()
	runs := uint64(800)
	if testing.Short() {
		runs = 100
	}
	for seed := range runs {
		w := newWorld(t, seed)
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w.t = t
			for range 400 {
				w.step()
			}
			w.calm = true
			for range 6000 {
				if w.m.Len() == 0 {
					break
				}
				w.step()
			}
			w.check()
			if len(w.m.keys) > 0 && len(w.m.requests) == 0 && len(w.m.waiting) == 0 {
				t.Fatalf("%d keys are remembered though nothing is unresolved", len(w.m.keys))
			}
		})
		if !ok {
			return
		}
	}
}

// TestCalmMachineStoresEverything: without faults nothing fails and nothing is stored twice.
func TestCalmMachineStoresEverything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		w := newWorld(t, seed)
		for range 60 {
			w.add()
			w.items[len(w.items)-1].Deadline = w.now.Add(time.Hour)
		}
		w.calm = true
		for range 3000 {
			w.step()
		}
		w.check()
		for seq, d := range w.results {
			if d.Status != Stored || w.stored[seq] != 1 {
				t.Fatalf("seed %d: item %d: status %v, stored %d times", seed, seq, d.Status, w.stored[seq])
			}
		}
	}
}
