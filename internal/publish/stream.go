package publish

import (
	"context"
	"slices"
	"sync"

	"github.com/sluice-mq/sluice/internal/fault"
)

// Bounds of what a stream remembers and gathers.
const (
	// maxRefusedKeys bounds the keys that a stream refuses one by one. Past it the stream refuses every
	// key until the earliest failure that found no room is sent again; a client that sends again in the
	// order of its sequences notices no difference.
	maxRefusedKeys = 4096
	// A held slice that is this large is closed and followed by another one.
	maxHeldBytes    = 1 << 20
	maxHeldMessages = MaxMessages
)

// Stream orders the batches of one publish stream: for each key at most one
// slice is under way, and a key that failed is refused until its failed message
// is sent again. Its memory is bounded by the messages in flight and by
// maxRefusedKeys. It needs no closing. Publish may be called for one stream from
// one goroutine at a time, which is what gives "earlier" a meaning.
type Stream struct {
	mu      sync.Mutex // guards all below, and the waiting of slices
	keys    map[uint64]keyState
	refused map[uint64]failure
	held    map[heldPlace]*slice // the newest held slice of each partition
	order   uint64               // number of the last keyed message
	// all: refused is full, and every key is refused until past.
	all  bool
	past failure
}

// NewStream implements Publisher.
func (e *Engine) NewStream() *Stream {
	return &Stream{keys: map[uint64]keyState{}}
}

// keyState exists while messages of the key are under way.
type keyState struct {
	owner *slice // the last slice with messages of the key
	// Messages of the key numbered in (from, to] were waiting when message from failed.
	from, to uint64
}

// failure names the message that has to be sent again.
type failure struct {
	sequence uint64 // 0: none, the id has to do
	id       string
}

// lifts tells whether a message is the failed one or one before it.
func (f failure) lifts(sequence uint64, id string) bool {
	if f.sequence != 0 && sequence != 0 {
		return sequence <= f.sequence
	}
	return id != "" && id == f.id
}

type heldPlace struct {
	t    *target
	part int32
}

// refuses tells whether key h is refused; sending the failed message again
// lifts that. Called with mu held, once for each message, in order.
func (st *Stream) refuses(h, sequence uint64, id string) bool {
	if st.all {
		if !st.past.lifts(sequence, id) {
			return true
		}
		st.all = false
	}
	f, failed := st.refused[h]
	if !failed {
		return false
	}
	if !f.lifts(sequence, id) {
		return true
	}
	delete(st.refused, h)
	return false
}

// mark refuses key h from now on. An earlier failure of the key stays the one
// that counts. Called with mu held.
func (st *Stream) mark(h, sequence uint64, id string) {
	if _, known := st.refused[h]; known {
		return
	}
	f := failure{sequence: sequence, id: id}
	switch {
	case len(st.refused) < maxRefusedKeys:
		if st.refused == nil {
			st.refused = map[uint64]failure{}
		}
		st.refused[h] = f
	case !st.all || sequence < st.past.sequence:
		st.all, st.past = true, f
	}
}

// markSettled refuses the key of a message that failed after it was taken: what
// waits behind it fails too. Called with mu held.
func (st *Stream) markSettled(it *item) {
	m := it.message()
	if f, known := st.refused[it.key]; known && (m.Sequence < f.sequence || f.sequence == 0) {
		// A later message of the key failed at its admission: now this one has to come first.
		delete(st.refused, it.key)
	}
	st.mark(it.key, m.Sequence, it.b.results[it.i].ID)
	ks, waiting := st.keys[it.key]
	if !waiting {
		return
	}
	if ks.to == 0 || it.order < ks.from {
		ks.from = it.order
	}
	ks.to = st.order
	st.keys[it.key] = ks
}

// enter takes message i of b, with key h and partition p. It goes out with now,
// the batch's own slice, unless an earlier message of the key is under way in
// another one: then it is held. Called with mu held.
func (st *Stream) enter(b *batch, i int, h uint64, p int32, now *slice) (order uint64, goes bool) {
	st.order++
	ks, busy := st.keys[h]
	if !busy || ks.owner == now {
		st.keys[h] = keyState{owner: now}
		return st.order, true
	}
	s := st.holder(b, p, ks.owner)
	ks.owner = s
	st.keys[h] = ks
	m := &b.req.Messages[i]
	w := b.recordWriter(nil)
	s.recs = append(s.recs, w.record(m, b.results[i].ID))
	s.items = append(s.items, item{b: b, i: int32(i), keyed: true, key: h, order: st.order})
	s.bytes += s.recs[len(s.recs)-1].Bytes()
	s.ctx = sooner(s.ctx, b.ctx)
	b.heldIn(s)
	return st.order, false
}

// holder finds or makes the held slice of a partition that may take a message
// whose key's last slice is owner.
//
// A slice that exists already may only come to wait for one that was sent: two
// held slices that wait for one another would wait for ever. A new one may wait
// for any, since nobody waits for it yet.
func (st *Stream) holder(b *batch, p int32, owner *slice) *slice {
	at := heldPlace{b.state.t, p}
	last := st.held[at]
	if last != nil && len(last.items) < maxHeldMessages && last.bytes < maxHeldBytes && (owner == last || owner.sent) {
		if owner != last {
			last.waitFor(owner)
		}
		return last
	}
	s := &slice{e: b.e, state: b.state, producer: b.state.producer, part: p, id: b.state.layout.parts[p].ID, ctx: b.ctx, stream: st}
	s.waitFor(owner)
	if last != nil && last != owner {
		s.waitFor(last)
	}
	if st.held == nil {
		st.held = map[heldPlace]*slice{}
	}
	st.held[at] = s
	b.e.m.held.Inc()
	return s
}

// waitFor makes s wait until o is settled. Called with mu held.
func (s *slice) waitFor(o *slice) {
	if slices.Contains(o.next, s) {
		return
	}
	o.next = append(o.next, s)
	s.waits++
}

// heldIn remembers that s holds messages of b, so that they can be answered at
// b's deadline if they are still held then. Called with mu held.
func (b *batch) heldIn(s *slice) {
	if b.held == nil {
		b.unwatch = context.AfterFunc(b.ctx, b.expireHeld)
	}
	if slices.Contains(b.held, s) {
		return
	}
	b.held = append(b.held, s)
}

// expireHeld answers what the batch still has in held slices at its deadline.
func (b *batch) expireHeld() {
	st, n := b.req.Stream, 0
	st.mu.Lock()
	for _, s := range b.held {
		if s.sent {
			continue
		}
		for k := range s.items {
			if it := &s.items[k]; it.b == b {
				st.giveUp(it, b.expiry())
				n++
			}
		}
	}
	st.mu.Unlock()
	b.settled(n)
}

// expiry says why the batch's context ended.
func (b *batch) expiry() *fault.Error {
	if b.e.ctx.Err() != nil {
		return errStopped
	}
	return errExpired
}

// giveUp gives a held message its result; whoever calls counts it as settled.
// Called with mu held.
func (st *Stream) giveUp(it *item, err *fault.Error) {
	r := &it.b.results[it.i]
	r.Status, r.Err = NotSent, err
	if err != errPreceding {
		st.markSettled(it)
	}
	it.b = nil
}

// release sends a held slice for which nobody has to be waited any more. It runs
// on a goroutine of its own.
func (s *slice) release() {
	st := s.stream
	var settled []*batch
	st.mu.Lock()
	if s.sent || s.waits > 0 {
		// Between the last wait's end and this lock a message joined that waits for
		// another slice: the end of that one releases it again, or has done so already.
		st.mu.Unlock()
		return
	}
	s.sent = true
	if at := (heldPlace{s.state.t, s.part}); st.held[at] == s {
		delete(st.held, at)
	}
	for k := range s.items {
		it := &s.items[k]
		if it.b == nil {
			continue
		}
		b := it.b
		ks := st.keys[it.key]
		switch {
		case it.order > ks.from && it.order <= ks.to:
			st.giveUp(it, errPreceding)
		case b.ctx.Err() != nil:
			st.giveUp(it, b.expiry())
		default:
			continue
		}
		settled = append(settled, b)
	}
	s.dropGone()
	st.mu.Unlock()
	for _, b := range settled {
		b.settled(1)
	}
	if len(s.items) == 0 {
		s.finish()
		return
	}
	s.produce()
}

// dropGone takes out the messages that have their results. The keys of those
// are let go, unless others of the key remain. Called with mu held.
func (s *slice) dropGone() {
	items, recs := s.items[:0:0], s.recs[:0:0]
	for k := range s.items {
		if it := s.items[k]; it.b != nil {
			items, recs = append(items, it), append(recs, s.recs[k])
		} else {
			s.stream.letGo(it.key, s)
		}
	}
	s.items, s.recs = items, recs
	s.own()
}

// letGo forgets a key whose last slice was s. Called with mu held.
func (st *Stream) letGo(key uint64, s *slice) {
	if st.keys[key].owner == s {
		delete(st.keys, key)
	}
}

// own takes the keys of the slice's remaining messages back where letGo went
// too far. Called with mu held.
func (s *slice) own() {
	for k := range s.items {
		if it := &s.items[k]; it.keyed {
			if _, owned := s.stream.keys[it.key]; !owned {
				s.stream.keys[it.key] = keyState{owner: s}
			}
		}
	}
}

// sooner is the context whose deadline comes first; all of them have one.
func sooner(a, b context.Context) context.Context {
	x, _ := a.Deadline()
	if y, _ := b.Deadline(); y.Before(x) {
		return b
	}
	return a
}
