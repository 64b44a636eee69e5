package lane

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/mq"
)

// naive is what a lane must look like from outside, kept the slow way.
type naive struct {
	lane     *Lane
	cfg      Config
	now      time.Duration
	log      []int64 // offsets with a message
	fetched  int     // of log
	keys     map[int64]string
	done     map[int64]bool
	attempts map[int64]int
	leases   map[uint64]*held
	newest   map[int64]*held
	copies   []Copy
	inFlight map[uint64]int
}

type held struct {
	Leased
	client   uint64
	deadline time.Duration
	open     bool
	ended    string
}

func newNaive(t *rapid.T) *naive {
	n := &naive{
		keys: map[int64]string{}, done: map[int64]bool{}, attempts: map[int64]int{},
		leases: map[uint64]*held{}, newest: map[int64]*held{}, inFlight: map[uint64]int{},
	}
	n.cfg = Config{
		Mode:     rapid.SampledFrom([]Mode{Any, ByKey, ByPartition}).Draw(t, "mode"),
		Policies: []Policy{{MaxAttempts: rapid.IntRange(1, 4).Draw(t, "attempts"), BackoffMin: time.Second, BackoffMax: 40 * time.Second}},
		Run:      rapid.IntRange(1, 5).Draw(t, "run"), Window: rapid.SampledFrom([]int{1, 7, 60, 500, 1000}).Draw(t, "window"),
	}
	if rapid.Bool().Draw(t, "parks") {
		n.cfg.ParkAfter = 15 * time.Second
	}
	offset := int64(rapid.IntRange(0, 5).Draw(t, "first"))
	from := offset
	for range rapid.IntRange(1, 300).Draw(t, "messages") {
		if rapid.IntRange(0, 9).Draw(t, "gap?") == 0 {
			offset += int64(rapid.IntRange(1, 90).Draw(t, "gap"))
		}
		n.log = append(n.log, offset)
		n.keys[offset] = rapid.SampledFrom([]string{"a", "b", "c", ""}).Draw(t, "key")
		offset++
	}
	carried := ackmap.Map{Words: rapid.SliceOfN(rapid.Uint64(), 0, 10).Draw(t, "carried")}
	for _, o := range n.log {
		if carried.Done(o - from) {
			n.done[o] = true
		}
	}
	n.lane = New(n.cfg, from, carried, rapid.Uint64().Draw(t, "serial"))
	return n
}

func (n *naive) fetch(t *rapid.T) {
	for range rapid.IntRange(1, 20).Draw(t, "n") {
		if n.fetched == len(n.log) {
			n.lane.Pass(n.log[len(n.log)-1] + 1)
			return
		}
		o := n.log[n.fetched]
		r := &mq.Record{Offset: o}
		if k := n.keys[o]; k != "" {
			r.Key = []byte(k)
		}
		if !n.lane.Admit(n.now, Message{Offset: o, Record: r}) {
			if o-n.lane.Base() < int64(n.cfg.Window) {
				t.Fatalf("no room for %d at base %d, window %d", o, n.lane.Base(), n.cfg.Window)
			}
			return
		}
		n.fetched++
	}
}

// behind tells whether b must wait for a.
func (n *naive) behind(a, b int64) bool {
	switch n.cfg.Mode {
	case ByPartition:
		return a < b
	case ByKey:
		return a < b && n.keys[a] != "" && n.keys[a] == n.keys[b]
	default:
		return false
	}
}

func (n *naive) lease(t *rapid.T) {
	client := uint64(rapid.IntRange(1, 3).Draw(t, "client"))
	most := rapid.IntRange(1, 12).Draw(t, "max")
	for_ := time.Duration(rapid.IntRange(1, 40).Draw(t, "for")) * time.Second
	got := n.lane.Lease(n.now, Request{Client: client, Max: most, MaxBytes: 1 << 30, For: for_, Policies: 1}, nil)
	if len(got) > most {
		t.Fatalf("%d leased, %d asked for", len(got), most)
	}
	runs := map[uint64]int{}
	for i, d := range got {
		if n.done[d.Offset] {
			t.Fatalf("offset %d is done and went out", d.Offset)
		}
		if h := n.newest[d.Offset]; h != nil && h.open {
			t.Fatalf("offset %d is out twice", d.Offset)
		}
		for _, o := range n.log { // A9
			if !n.behind(o, d.Offset) || n.done[o] {
				continue
			}
			before := false
			for _, e := range got[:i] {
				before = before || e.Offset == o && e.Run == d.Run
			}
			if !before {
				t.Fatalf("offset %d went out before %d was done", d.Offset, o)
			}
		}
		if (d.Run != 0) != (n.cfg.Mode != Any) {
			t.Fatalf("run %d in mode %d", d.Run, n.cfg.Mode)
		}
		if runs[d.Run]++; d.Run != 0 && runs[d.Run] > n.cfg.Run {
			t.Fatalf("run of %d", runs[d.Run])
		}
		n.attempts[d.Offset]++
		if d.Attempt != n.attempts[d.Offset] || d.Attempt > n.cfg.Policies[0].MaxAttempts {
			t.Fatalf("offset %d: attempt %d, the model has %d", d.Offset, d.Attempt, n.attempts[d.Offset])
		}
		if n.leases[d.Serial] != nil {
			t.Fatalf("serial %d twice", d.Serial)
		}
		h := &held{Leased: d, client: client, deadline: n.now + for_, open: true}
		n.leases[d.Serial], n.newest[d.Offset] = h, h
		n.inFlight[client]++
	}
}

func (n *naive) anyLease(t *rapid.T) *held {
	if len(n.leases) == 0 {
		t.Skip("none")
	}
	var hs []*held
	for _, o := range n.log {
		for _, h := range n.leases {
			if h.Offset == o && (h.open || h == n.newest[o]) {
				hs = append(hs, h)
				break
			}
		}
	}
	if len(hs) == 0 {
		t.Skip("none")
	}
	return rapid.SampledFrom(hs).Draw(t, "lease")
}

func (n *naive) settle(t *rapid.T) {
	h := n.anyLease(t)
	a := rapid.SampledFrom([]Action{Accept, Accept, Accept, Release, Reject, Renew, Return}).Draw(t, "action")
	delay := time.Duration(rapid.IntRange(1, 30).Draw(t, "delay")) * time.Second
	wasOpen, wasDone := h.open, n.done[h.Offset]
	v := n.lane.Settle(n.now, Answer{Offset: h.Offset, Serial: h.Serial, Action: a, Delay: delay})
	if wasOpen && v != OK {
		t.Fatalf("open lease of %d: verdict %d for action %d", h.Offset, v, a)
	}
	switch {
	case wasOpen && a == Renew:
		h.deadline = n.now + delay
	case wasOpen:
		h.open, h.ended = false, fmt.Sprint(a)
		if a == Return {
			n.attempts[h.Offset]--
		}
		n.done[h.Offset] = a == Accept
	case a == Accept && v == OK && !wasDone:
		if h.ended != "expired" || n.newest[h.Offset] != h {
			t.Fatalf("accept of %d was taken after its lease ended as %q", h.Offset, h.ended)
		}
		h.ended = fmt.Sprint(Accept)
		n.done[h.Offset] = true
	case a == Reject && v == OK && h.ended == "expired":
		h.ended = fmt.Sprint(Reject)
	}
}

func (n *naive) tick(t *rapid.T) {
	n.now += time.Duration(rapid.IntRange(1, 30_000).Draw(t, "ms")) * time.Millisecond
	n.lane.Tick(n.now)
}

func (n *naive) store(t *rapid.T) {
	if len(n.copies) == 0 {
		t.Skip("none")
	}
	i := rapid.IntRange(0, len(n.copies)-1).Draw(t, "copy")
	c := n.copies[i]
	n.copies = append(n.copies[:i:i], n.copies[i+1:]...)
	if c.Delay > 0 && rapid.Bool().Draw(t, "fails") {
		n.lane.Unstored(n.now, c.Offset, c.Serial, c.Delay)
		return
	}
	n.lane.Stored(c.Offset, c.Serial)
	n.done[c.Offset] = true
}

func (n *naive) closeClient(t *rapid.T) {
	client := uint64(rapid.IntRange(1, 3).Draw(t, "client"))
	n.lane.Return(n.now, client)
	for _, h := range n.leases {
		if h.open && h.client == client {
			h.open, h.ended = false, "returned"
			n.attempts[h.Offset]--
		}
	}
	// what the lane took back of the same run is named in Effects as well
	for i := range n.lane.Effects.Revoked {
		n.lane.Effects.Revoked[i].Client = 0
	}
}

// check takes the effects and compares.
func (n *naive) check(t *rapid.T) {
	l := n.lane
	for _, r := range l.Effects.Revoked {
		h := n.leases[r.Lease.Serial]
		if r.Client == 0 { // closeClient counted it
			continue
		}
		if h == nil || !h.open || h.client != r.Client {
			t.Fatalf("called off: %+v, the model has %+v", r, h)
		}
		h.open, h.ended = false, "called off"
		n.attempts[h.Offset]--
	}
	for _, f := range l.Effects.Freed {
		if n.inFlight[f.Client] -= f.Count; n.inFlight[f.Client] < 0 {
			t.Fatalf("client %d has %d leases", f.Client, n.inFlight[f.Client])
		}
	}
	for _, c := range l.Effects.Dead {
		if h := n.newest[c.Offset]; h.ended != fmt.Sprint(Reject) && n.attempts[c.Offset] < n.cfg.Policies[0].MaxAttempts {
			t.Fatalf("dead letter of %d after %d attempts, ended %q", c.Offset, n.attempts[c.Offset], h.ended)
		}
	}
	if n.cfg.ParkAfter == 0 || n.cfg.Mode != Any {
		if len(l.Effects.Park) > 0 {
			t.Fatal("parked")
		}
	}
	n.copies = append(append(n.copies, l.Effects.Dead...), l.Effects.Park...)
	for _, h := range n.leases {
		if h.open && h.deadline <= n.now {
			h.open, h.ended = false, "expired"
		}
	}
	l.Effects.Reset()
	open := map[uint64]int{}
	for _, h := range n.leases {
		if h.open {
			open[h.client]++
		}
	}
	for c := range uint64(4) {
		if open[c] != n.inFlight[c] {
			t.Fatalf("client %d: %d leases in the model, %d by the lane", c, open[c], n.inFlight[c])
		}
	}
	n.checkPosition(t)
}

// checkPosition: what a commit says is done is done (A6), and what is done inside the window is said.
func (n *naive) checkPosition(t *rapid.T) {
	p := n.lane.Position()
	for i, o := range n.log {
		said := o < p.Offset || p.Map.Done(o-p.Offset)
		if said && !n.done[o] {
			t.Fatalf("a commit says that %d is done: %+v", o, p)
		}
		if n.done[o] && !said && i < n.fetched {
			t.Fatalf("a commit does not say that %d is done: %+v", o, p)
		}
	}
	if n.lane.Span() > n.cfg.Window {
		t.Fatalf("window of %d", n.lane.Span())
	}
}

func TestLaneAgainstNaiveModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := newNaive(t)
		t.Repeat(map[string]func(*rapid.T){
			"fetch": n.fetch, "lease": n.lease, "settle": n.settle, "settle more": n.settle,
			"tick": n.tick, "store": n.store, "close": n.closeClient, "": n.check,
		})
		n.drain(t)
	})
}

// drain: with clients that accept and writes that succeed, everything gets done (A5).
func (n *naive) drain(t *rapid.T) {
	for range 2000 {
		if n.fetched < len(n.log) {
			o := n.log[n.fetched]
			r := &mq.Record{Offset: o}
			if k := n.keys[o]; k != "" {
				r.Key = []byte(k)
			}
			if n.lane.Admit(n.now, Message{Offset: o, Record: r}) {
				n.fetched++
			}
		}
		for _, d := range n.lane.Lease(n.now, Request{Client: 9, Max: 100, MaxBytes: 1 << 30, For: time.Second, Policies: 1}, nil) {
			if v := n.lane.Settle(n.now, Answer{Offset: d.Offset, Serial: d.Serial, Action: Accept}); v != OK {
				t.Fatalf("accept of %d: %d", d.Offset, v)
			}
			n.done[d.Offset] = true
		}
		n.copies = append(append(n.copies, n.lane.Effects.Dead...), n.lane.Effects.Park...)
		n.lane.Effects.Reset()
		for _, c := range n.copies {
			n.lane.Stored(c.Offset, c.Serial)
			n.done[c.Offset] = true
		}
		n.copies = nil
		n.now += time.Second
		n.lane.Tick(n.now)
	}
	n.lane.Pass(n.log[len(n.log)-1] + 1)
	n.checkPosition(t)
	l := n.lane
	if l.Base() <= n.log[len(n.log)-1] || l.Buffered() != 0 || l.Bytes() != 0 || l.Open() != 0 || l.Idle() != 0 || len(l.keys) != 0 || l.queued.head != none {
		t.Fatalf("not drained: base %d, %d messages, %d bytes, %d open, %d idle, %d keys", l.Base(), l.Buffered(), l.Bytes(), l.Open(), l.Idle(), len(l.keys))
	}
}
