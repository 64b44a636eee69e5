package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// item is one call of Produce. The queue's lock guards it.
type item struct {
	ctx      context.Context
	deadline time.Time // zero: none
	records  []mq.Record
	results  []mq.Result
	done     func([]mq.Result)
	stop     func() bool // of the watch on ctx
	next     int         // records before are settled
	flying   int         // records after next that are in flight
	bytes    int
	answered bool // done was called, or is about to be
	end      int  // records from here on will not be sent any more
}

// answer is a done that has to be called once the lock is released.
type answer struct {
	done    func([]mq.Result)
	results []mq.Result
	stop    func() bool
}

type answers []answer

func (as answers) call() {
	for _, a := range as {
		if a.stop != nil {
			a.stop()
		}
		a.done(a.results)
	}
}

// queue is one partition's records, in order: a prefix in flight, the rest waiting.
type queue struct {
	id mq.PartitionID
	p  *producer

	mu     sync.Mutex // guards the rest
	items  []*item
	bytes  int
	flight *flight
	ident  ident
	// busy: a sender has it, or a timer or the preparation will give it to one.
	busy bool
	// trouble is since when nothing could be sent; zero: no trouble.
	trouble time.Time
	lastErr *mq.Error
	// cut is the largest batch that the broker is believed to take.
	cut int
}

// add queues a call, ok false when the queue is full. With start the caller has to dispatch the queue.
func (q *queue) add(it *item) (start, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+it.bytes > q.p.d.cfg.PartitionBytes && len(q.items) > 0 {
		return false, false
	}
	if it.ctx.Done() != nil {
		// expire waits for the lock held here, so it finds the item in the queue, or settled.
		it.stop = context.AfterFunc(it.ctx, func() { q.expire(it) })
	}
	q.items = append(q.items, it)
	q.bytes += it.bytes
	if q.busy {
		return false, true
	}
	q.busy = true
	return true, true
}

// form makes the next batch, or repeats the one in flight; 0 when there is nothing to send.
func (q *queue) form(now time.Time, headers bool) int {
	q.mu.Lock()
	if q.flight != nil {
		defer q.mu.Unlock()
		q.flight.tries++
		return q.flight.bytes
	}
	var as answers
	q.expireAll(now, &as)
	if !headers {
		q.refuseHeaders(&as)
	}
	var spans []span
	size, count := batchHead, 0
fill:
	for _, it := range q.items {
		to := it.next
		for ; to < it.end; to++ {
			n := recordBytes(&it.records[to])
			if count > 0 && size+n > q.cut {
				if to > it.next {
					spans = append(spans, span{it, it.next, to})
					it.flying = to - it.next
				}
				break fill
			}
			size += n
			count++
		}
		if to > it.next {
			spans = append(spans, span{it, it.next, to})
			it.flying = to - it.next
		}
	}
	if count > 0 {
		q.flight = &flight{spans: spans, count: count, bytes: size, id: q.ident, at: now, tries: 1}
	}
	q.mu.Unlock()
	// done does not block, by contract; this runs on kgo's goroutine of the broker.
	as.call()
	if count == 0 {
		return 0
	}
	return size
}

// expireAll takes out what must not be sent any more, because its time is over.
func (q *queue) expireAll(now time.Time, as *answers) {
	q.items = slices.DeleteFunc(q.items, func(it *item) bool {
		if it.ctx.Err() == nil && (it.deadline.IsZero() || now.Before(it.deadline)) {
			return false
		}
		q.fail(it, it.next, errNotSent(it.ctx, q.lastErr))
		q.finish(it, as)
		return true
	})
}

func (q *queue) refuseHeaders(as *answers) {
	q.items = slices.DeleteFunc(q.items, func(it *item) bool {
		if !slices.ContainsFunc(it.records, func(r mq.Record) bool { return needsHeaders(&r) }) {
			return false
		}
		q.fail(it, it.next, errNoHeaders())
		q.finish(it, as)
		return true
	})
}

func errNotSent(ctx context.Context, last *mq.Error) *mq.Error {
	e := &mq.Error{Class: mq.Timeout, Msg: "the record was not sent before its deadline"}
	if last != nil {
		e.Cause = last
	} else if ctx.Err() != nil {
		e.Cause = ctx.Err()
	}
	return e
}

func errNoHeaders() *mq.Error {
	return mq.Errorf(mq.Unsupported, "this cluster is older than Kafka 0.11: records cannot carry headers or tags")
}

// fail sets err for all records of it from index from on that were not settled.
func (q *queue) fail(it *item, from int, err error) {
	for i := from; i < len(it.records); i++ {
		it.results[i] = mq.Result{Offset: -1, Err: err}
	}
	it.end = min(it.end, from)
}

// finish ends a call that is out of the queue, and frees its bytes.
func (q *queue) finish(it *item, as *answers) {
	q.bytes -= it.bytes
	q.p.release(it.bytes)
	q.answer(it, as)
}

func (q *queue) answer(it *item, as *answers) {
	if it.answered {
		return
	}
	it.answered = true
	*as = append(*as, answer{it.done, it.results, it.stop})
}

// expire ends the waiting of one caller, when its ctx ends. What is in flight stays in the queue until the
// broker has answered.
func (q *queue) expire(it *item) {
	var as answers
	q.mu.Lock()
	if it.answered {
		q.mu.Unlock()
		return
	}
	last := it.next + it.flying
	q.fail(it, last, errNotSent(it.ctx, q.lastErr))
	if it.flying == 0 {
		if i := slices.Index(q.items, it); i >= 0 {
			q.items = slices.Delete(q.items, i, i+1)
		}
		q.finish(it, &as)
		q.mu.Unlock()
		as.call()
		return
	}
	maybe := &mq.Error{Class: mq.Timeout, MaybeSent: true, Msg: "sent, but not acknowledged before the deadline"}
	if q.lastErr != nil {
		maybe.Cause = q.lastErr
	}
	// The slice belongs to the caller after done, so the late outcome must not be written into it.
	answer := it.results
	it.results = slices.Clone(it.results)
	for i := it.next; i < last; i++ {
		answer[i] = mq.Result{Offset: -1, Err: maybe}
	}
	it.end = last
	it.answered = true
	q.mu.Unlock()
	it.done(answer)
}
