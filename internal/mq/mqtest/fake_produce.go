package mqtest

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

type fakeProducer struct{ f *Fake }

// fakeWrite is one call of Produce on its way.
type fakeWrite struct {
	records []mq.Record
	done    func([]mq.Result)
	state   atomic.Int32
	stop    func() bool // ends the watch on the caller's context
}

// States of a fakeWrite; they only grow.
const (
	queued int32 = iota
	inFlight
	answered
)

// Partitions implements mq.Producer.
func (p fakeProducer) Partitions(ctx context.Context, topic mq.Topic) ([]mq.Partition, error) {
	f := p.f
	if err := f.admit(ctx, "Partitions"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[topic]
	if t == nil {
		return nil, mq.Errorf(mq.NotFound, "no topic %q", topic)
	}
	out := make([]mq.Partition, len(t.parts))
	for i, part := range t.parts {
		out[i] = clonePartition(part.info)
	}
	return out, nil
}

// Produce implements mq.Producer.
func (p fakeProducer) Produce(ctx context.Context, id mq.PartitionID, records []mq.Record, done func([]mq.Result)) {
	f := p.f
	w := &fakeWrite{records: cloneRecords(records), done: done}
	f.mu.Lock()
	defer f.mu.Unlock()
	part, err := f.partition(id)
	switch {
	case f.closed:
		err = errClosed()
	case ctx.Err() != nil:
		err = ended(ctx)
	}
	if err != nil {
		go done(failAll(len(records), err)) // never from inside Produce: the caller may hold a lock
		return
	}
	w.stop = context.AfterFunc(ctx, func() {
		e := ended(ctx)
		if !w.state.CompareAndSwap(queued, answered) {
			e.MaybeSent = true
			if !w.state.CompareAndSwap(inFlight, answered) {
				return
			}
		}
		done(failAll(len(w.records), e))
	})
	part.queue = append(part.queue, w)
	if !part.running {
		part.running = true
		f.work.Add(1)
		go f.writeOut(part)
	}
}

// writeOut works through a partition's queue, one write after the other, and ends when it is empty.
func (f *Fake) writeOut(p *fakePartition) {
	defer f.work.Done()
	for {
		f.mu.Lock()
		if len(p.queue) == 0 {
			p.running = false
			f.mu.Unlock()
			return
		}
		w := p.queue[0]
		p.queue = p.queue[1:]
		f.mu.Unlock()
		if w.state.CompareAndSwap(queued, inFlight) {
			f.answer(w, f.write(p, w))
		}
	}
}

// answer calls done unless the caller's context was faster.
func (f *Fake) answer(w *fakeWrite, rs []mq.Result) {
	w.stop()
	if w.state.CompareAndSwap(inFlight, answered) {
		w.done(rs)
	}
}

// write carries out one attempt as scripted.
func (f *Fake) write(p *fakePartition, w *fakeWrite) []mq.Result {
	f.mu.Lock()
	a := Attempt{Partition: p.info.ID, Records: w.records, Number: len(f.attempts) + 1}
	f.attempts = append(f.attempts, a)
	hook := f.hooks.produce
	f.notify()
	f.mu.Unlock()

	var o Outcome
	if hook != nil {
		o = hook(a)
	}
	if !f.pause(o.Hold, o.Delay) {
		return failAll(len(w.records), &mq.Error{Class: mq.Closed, Msg: "the fake cluster was closed", MaybeSent: true})
	}
	rs := f.append(p, w.records, o)
	if !f.pause(o.AnswerHold, o.AnswerDelay) {
		return failAll(len(w.records), &mq.Error{Class: mq.Closed, Msg: "the fake cluster was closed", MaybeSent: true})
	}
	return rs
}

// append checks each record and stores those that pass.
func (f *Fake) append(p *fakePartition, records []mq.Record, o Outcome) []mq.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.Err == nil && p.gone {
		o.Err = mq.Errorf(mq.NotFound, "topic %q was deleted", p.info.ID.Topic)
	}
	if o.Err == nil && (p.info.Leader == "" || !p.info.Writable) {
		o.Err = mq.Errorf(mq.NotLeader, "partition %s of %s has no leader", p.info.ID, p.info.ID.Topic)
	}
	rs := make([]mq.Result, len(records))
	for i := range records {
		err := o.Err
		if err == nil {
			err = f.check(p, &records[i])
		}
		if err == nil && o.Each != nil {
			err = o.Each(i, records[i])
		}
		rs[i] = mq.Result{Offset: -1, Err: err}
		if err == nil || mq.ClassOf(err) == mq.NotDurable || (o.Err != nil && o.Stored) {
			rs[i].Offset = p.end()
			f.store(p, records[i:i+1])
		}
	}
	return rs
}

// check refuses what the cluster cannot hold. The caller holds mu.
func (f *Fake) check(p *fakePartition, r *mq.Record) error {
	if !f.caps.Headers && (len(r.Headers) > 0 || r.Tag != "") {
		return mq.Errorf(mq.Unsupported, "this cluster has no headers and tags")
	}
	limit := f.caps.MaxRecordBytes
	if n, err := strconv.Atoi(f.topics[p.info.ID.Topic].config[maxMessageBytes]); err == nil {
		limit = n
	}
	if n := r.Bytes(); limit > 0 && n > limit {
		return mq.Errorf(mq.TooLarge, "record of %d bytes, the limit is %d", n, limit)
	}
	return nil
}

// store appends copies and wakes readers. The caller holds mu.
func (f *Fake) store(p *fakePartition, records []mq.Record) {
	for _, r := range cloneRecords(records) {
		r.Offset = p.end()
		if r.Timestamp.IsZero() {
			r.Timestamp = f.now()
		}
		r.Timestamp = r.Timestamp.Truncate(time.Millisecond) // as brokers keep them
		p.records = append(p.records, r)
	}
	f.notify()
}

// pause waits as scripted; false: the fake was closed meanwhile.
func (f *Fake) pause(hold <-chan struct{}, delay time.Duration) bool {
	if hold != nil {
		select {
		case <-hold:
		case <-f.closing:
			return false
		}
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-f.closing:
			return false
		}
	}
	return true
}

// failAll is one result of the same error for each record.
func failAll(n int, err error) []mq.Result {
	rs := make([]mq.Result, n)
	for i := range rs {
		rs[i] = mq.Result{Offset: -1, Err: err}
	}
	return rs
}
