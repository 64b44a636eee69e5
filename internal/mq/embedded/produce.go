package embedded

import (
	"context"
	"sync/atomic"

	"github.com/sluice-mq/sluice/internal/mq"
)

type producer struct{ s *Store }

// Partitions implements mq.Producer.
func (p producer) Partitions(ctx context.Context, name mq.Topic) ([]mq.Partition, error) {
	if err := p.s.ready(ctx); err != nil {
		return nil, err
	}
	t, err := p.s.topic(name)
	if err != nil {
		return nil, err
	}
	return partitions(t), nil
}

var replicas = []string{broker}

func partitions(t *topic) []mq.Partition {
	out := make([]mq.Partition, len(t.parts))
	for i, p := range t.parts {
		out[i] = mq.Partition{ID: p.id, Replicas: replicas[:1:1], InSync: replicas[:1:1], Leader: broker, Writable: true}
	}
	return out
}

// write is one call of Produce.
type write struct {
	s       *Store
	p       *partition
	records []mq.Record
	results []mq.Result // those with an error are refused already
	bytes   int
	done    func([]mq.Result)
	state   atomic.Int32
	stop    func() bool // ends the watch on the caller's context; nil: it cannot end
}

// States of a write; they only grow.
const (
	queued int32 = iota
	inFlight
	answered
)

// Produce implements mq.Producer. When more waits than Config.QueueBytes the records are refused with class Busy.
func (p producer) Produce(ctx context.Context, id mq.PartitionID, records []mq.Record, done func([]mq.Result)) {
	s := p.s
	part, t, err := s.partition(id)
	if ready := s.ready(ctx); ready != nil {
		err = ready
	}
	w := &write{s: s, p: part, records: records, results: make([]mq.Result, len(records)), done: done}
	if err == nil {
		w.check(s.recordLimit(t))
	}
	if err == nil && w.bytes > 0 {
		if ctx.Done() != nil {
			w.stop = context.AfterFunc(ctx, func() { w.giveUp(ctx) })
		}
		if err = s.queue.push(w); err == nil {
			return
		}
		if !w.begin() {
			return // ctx ended meanwhile, and giveUp answers
		}
	}
	go w.answer(err) // never from inside Produce: the caller may hold a lock
}

// check refuses records one by one.
func (w *write) check(limit int) {
	for i := range w.records {
		n := w.records[i].Bytes()
		if n > limit {
			w.results[i] = mq.Result{Offset: -1, Err: mq.Errorf(mq.TooLarge, "record of %d bytes, the limit is %d", n, limit)}
			continue
		}
		w.bytes += n
	}
}

func (w *write) size() int   { return w.bytes }
func (w *write) alone() bool { return false }
func (w *write) begin() bool { return w.state.CompareAndSwap(queued, inFlight) }

func (w *write) stage(t *tx) error {
	if w.p.gone {
		return mq.Errorf(mq.NotFound, "topic %q was deleted", w.p.id.Topic)
	}
	st := t.part(w.p)
	for i := range w.records {
		if w.results[i].Err == nil {
			w.results[i].Offset = t.add(st, &w.records[i])
		}
	}
	return nil
}

func (w *write) finish(err error) {
	if w.stop != nil {
		w.stop()
	}
	if w.state.CompareAndSwap(inFlight, answered) {
		w.answer(err)
	} else if err == nil {
		w.s.m.late.Inc()
	}
}

// answer calls done; err is of all records that were not refused by themselves.
func (w *write) answer(err error) {
	if w.stop != nil {
		w.stop()
	}
	if err != nil {
		w.results = failed(w.results, err)
	}
	w.done(w.results)
}

// giveUp answers at the end of the caller's context. The results are copies: the committer may be filling the others.
func (w *write) giveUp(ctx context.Context) {
	err := ended(ctx)
	if !w.state.CompareAndSwap(queued, answered) {
		err.MaybeSent = true
		if !w.state.CompareAndSwap(inFlight, answered) {
			return
		}
	}
	rs := make([]mq.Result, len(w.results))
	for i := range rs {
		rs[i].Err = w.results[i].Err
	}
	w.done(failed(rs, err))
}

// failed puts an error where there is none yet.
func failed(rs []mq.Result, err error) []mq.Result {
	for i := range rs {
		if rs[i].Err == nil {
			rs[i] = mq.Result{Offset: -1, Err: err}
		}
	}
	return rs
}
