package publish

import (
	"context"
	"sync"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

var (
	errPreceding = fault.New(fault.PrecedingFailed, "an earlier message of this key failed, so this one was held back to keep the order; send again from the failed one")
	errExpired   = fault.New(fault.DeadlineExceeded, "the deadline passed while an earlier message of this key was under way; it was not sent")
	errStopped   = fault.New(fault.GoAway, "the node stopped before this was sent; publish through another one")
)

// slice is the part of one or more batches that goes to one partition in one
// Produce. It lives until all its messages have results.
type slice struct {
	e        *Engine
	state    *targetState
	producer mq.Producer
	part     int32
	id       mq.PartitionID
	ctx      context.Context // of the message whose deadline comes first
	items    []item
	recs     []mq.Record
	attempt  int // failed ones so far

	stream *Stream // set where the slice has keyed messages of a stream
	// Guarded by stream.mu: held slices wait for earlier ones of their keys.
	waits int      // how many slices have to settle first
	next  []*slice // who waits for this one
	sent  bool     // handed to the driver: takes no further messages
	bytes int      // of a held slice
}

// item is one message of a slice.
type item struct {
	b     *batch // nil: the message got its result while it was held
	i     int32
	keyed bool
	key   uint64 // its hash; only where something has to be ordered by it
	order uint64 // its number in the stream
}

func (it *item) message() *Message { return &it.b.req.Messages[it.i] }

// scratch is what cutting a batch into slices needs for a moment.
type scratch struct {
	slot   []int32  // partition -> slice, plus one
	ord    []int32  // message -> slice; -1: none
	keys   []uint64 // message -> key hash
	order  []uint64
	used   []int32 // partitions whose slot is set
	counts []int32 // slice -> messages
	slices []*slice
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (sc *scratch) reset(messages, parts int) {
	sc.slot = resized(sc.slot, parts)
	sc.ord = resized(sc.ord, messages)
	sc.keys = resized(sc.keys, messages)
	sc.order = resized(sc.order, messages)
	sc.counts, sc.slices, sc.used = sc.counts[:0], sc.slices[:0], sc.used[:0]
}

func (sc *scratch) free() {
	for _, p := range sc.used {
		sc.slot[p] = 0
	}
	clear(sc.slices)
	scratches.Put(sc)
}

// resized gives a slice of n elements; what stood in it before stays in it.
func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// send cuts the batch into slices and hands them to the driver.
func (b *batch) send() {
	sc := scratches.Get().(*scratch)
	sc.reset(len(b.places), len(b.state.layout.parts))
	b.cut(sc)
	b.fill(sc)
	failures := b.failures
	// The slices leave the scratch first: from the first Produce on the batch may settle at any moment.
	var few [4]*slice
	out := append(few[:0], sc.slices...)
	sc.free()
	for _, s := range out {
		s.produce()
	}
	b.settled(failures + 1)
}

// cut decides for each message, in order, to which slice it goes, if it waits
// for earlier ones of its key, or if it is refused because one of them failed.
func (b *batch) cut(sc *scratch) {
	st := b.req.Stream
	if st != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
	}
	for i, p := range b.places {
		m := &b.req.Messages[i]
		sc.ord[i], sc.keys[i], sc.order[i] = -1, 0, 0
		ordered := m.Key != nil && (st != nil || b.failures > 0)
		var h uint64
		if ordered {
			h = b.keyHash(m.Key)
			sc.keys[i] = h
		}
		if p < 0 {
			if ordered {
				b.hold(i, h)
			}
			continue
		}
		if ordered && b.precededByFailure(m, h, b.results[i].ID) {
			b.fail(i, NotSent, errPreceding)
			continue
		}
		r := &b.results[i]
		r.Cluster, r.Partition = b.state.t.cluster, b.state.layout.names[p]
		n := b.sliceFor(sc, p)
		if ordered && st != nil {
			var now bool
			if sc.order[i], now = st.enter(b, i, h, p, sc.slices[n]); !now {
				continue
			}
			sc.slices[n].stream = st
		}
		sc.ord[i] = n
		sc.counts[n]++
	}
}

// sliceFor finds or makes the batch's slice for a partition.
func (b *batch) sliceFor(sc *scratch, p int32) int32 {
	if n := sc.slot[p]; n > 0 {
		return n - 1
	}
	var s *slice
	if len(sc.slices) == 0 {
		s = &b.first
	} else {
		s = new(slice)
	}
	*s = slice{e: b.e, state: b.state, producer: b.state.producer, part: p, id: b.state.layout.parts[p].ID, ctx: b.ctx, sent: true}
	sc.slices = append(sc.slices, s)
	sc.counts = append(sc.counts, 0)
	sc.slot[p] = int32(len(sc.slices))
	sc.used = append(sc.used, p)
	return sc.slot[p] - 1
}

// fill makes the records. All slices share a few allocations; none of it is used
// again, for drivers may read it even after their answer.
func (b *batch) fill(sc *scratch) {
	total := 0
	for _, n := range sc.counts {
		total += int(n)
	}
	if total == 0 {
		sc.slices = sc.slices[:0]
		return
	}
	var recs []mq.Record
	var items []item
	if total == 1 {
		recs, items = b.ones.records[:], b.ones.items[:]
	} else {
		recs, items = make([]mq.Record, total), make([]item, total)
	}
	at := 0
	for n, s := range sc.slices {
		end := at + int(sc.counts[n])
		s.recs, s.items = recs[at:at:end], items[at:at:end]
		at = end
	}
	w := b.recordWriter(sc.ord)
	for i, n := range sc.ord {
		if n < 0 {
			continue
		}
		s := sc.slices[n]
		s.recs = append(s.recs, w.record(&b.req.Messages[i], b.results[i].ID))
		s.items = append(s.items, item{b: b, i: int32(i), keyed: b.req.Messages[i].Key != nil, key: sc.keys[i], order: sc.order[i]})
	}
	// A slice whose messages are all held back has nothing to send now.
	kept := sc.slices[:0]
	for _, s := range sc.slices {
		if len(s.items) > 0 {
			kept = append(kept, s)
		}
	}
	sc.slices = kept
}

// recordWriter makes records whose headers and ids share one allocation each.
type recordWriter struct {
	withID  bool
	headers []mq.Header
	ids     []byte
}

// recordWriter makes a writer with room for the messages that have a slice in ord.
func (b *batch) recordWriter(ord []int32) recordWriter {
	w := recordWriter{withID: b.state.caps.Headers}
	if !w.withID {
		return w
	}
	headers, ids := 0, 0
	for i, n := range ord {
		if n >= 0 {
			headers += len(b.req.Messages[i].Headers) + 1
			ids += len(b.results[i].ID)
		}
	}
	w.headers, w.ids = make([]mq.Header, 0, headers), make([]byte, 0, ids)
	return w
}

func (w *recordWriter) record(m *Message, id string) mq.Record {
	r := mq.Record{Key: m.Key, Body: m.Body, Tag: m.Tag}
	if !w.withID {
		return r
	}
	from := len(w.headers)
	for i := range m.Headers {
		w.headers = append(w.headers, mq.Header(m.Headers[i]))
	}
	at := len(w.ids)
	w.ids = append(w.ids, id...)
	w.headers = append(w.headers, mq.Header{Name: mq.HeaderID, Value: w.ids[at:len(w.ids):len(w.ids)]})
	r.Headers = w.headers[from:len(w.headers):len(w.headers)]
	return r
}

// produce hands the slice to the driver.
func (s *slice) produce() {
	if s.ctx.Err() != nil {
		// The driver would say the same; it need not be asked.
		s.judge(s.neverSent())
		return
	}
	s.producer.Produce(s.ctx, s.id, s.recs, s.produced)
}

// neverSent is the answer for a slice whose deadline passed before its first transmission.
func (s *slice) neverSent() []mq.Result {
	rs := make([]mq.Result, len(s.items))
	err := mq.Errorf(mq.Timeout, "the deadline passed before it was sent")
	for i := range rs {
		rs[i].Err = err
	}
	return rs
}
