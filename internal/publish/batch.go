package publish

import (
	"context"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
)

// batch is one request on its way. Until it is sent it belongs to the goroutine
// of Publish; then each slice writes the results of its own messages, and
// whoever settles the last one calls done.
type batch struct {
	e        *Engine
	req      *Request
	done     func([]Result)
	caller   context.Context
	start    time.Time
	deadline time.Time
	ctx      context.Context // ends at the deadline, at most a grain before
	release  context.CancelFunc

	app    *appUse
	bytes  int64 // reserved in app
	topic  *topicEntry
	state  *targetState
	scope  uint64 // of key hashes: keys of different topics are different keys
	places []int32

	results []Result
	// open counts messages without a result, plus one while Publish works on the batch.
	open     atomic.Int32
	failures int // messages that failed before the send
	// failed are the keys of messages that failed before the send; only used without a stream.
	failed map[uint64]struct{}
	// held are the slices of others that hold messages of this batch; guarded by the stream's lock.
	held    []*slice
	unwatch func() bool // ends the watch over held
	first   slice       // the one slice of most batches, to save an allocation
	ones    struct {
		results [1]Result
		places  [1]int32
		records [1]mq.Record
		items   [1]item
	}
}

func (e *Engine) newBatch(ctx context.Context, req *Request, done func([]Result)) *batch {
	b := &batch{e: e, req: req, done: done, caller: ctx, start: e.now(), release: noRelease, scope: maphash.String(e.seed, req.Topic)}
	n := len(req.Messages)
	if n == 1 {
		b.results, b.places = b.ones.results[:], b.ones.places[:]
	} else {
		b.results, b.places = make([]Result, n), make([]int32, n)
	}
	b.open.Store(int32(n) + 1)
	return b
}

// keyHash names a key of the batch's topic. Two keys that collide are treated
// as one: held back or refused together, which is rare and never wrong.
func (b *batch) keyHash(key []byte) uint64 {
	return maphash.Bytes(b.e.seed, key) ^ b.scope
}

// fail gives a message its result before it is sent. That its key is held back
// is seen to by hold, in the order of the messages.
func (b *batch) fail(i int, s Status, err *fault.Error) {
	r := &b.results[i]
	r.Status, r.Err = s, err
	if r.ID == "" {
		r.ID = b.req.Messages[i].ID
	}
	b.places[i] = skip
	b.failures++
}

// hold marks the key h of a message that failed before the send, so that later
// ones of that key are refused. Called in the order of the messages, with the
// stream's lock held where there is one.
func (b *batch) hold(i int, h uint64) {
	if st := b.req.Stream; st != nil {
		st.mark(h, b.req.Messages[i].Sequence, b.results[i].ID)
		return
	}
	if b.failed == nil {
		b.failed = map[uint64]struct{}{}
	}
	b.failed[h] = struct{}{}
}

// precededByFailure tells whether an earlier message of the key h failed and is
// not being sent again just now.
func (b *batch) precededByFailure(m *Message, h uint64, id string) bool {
	if st := b.req.Stream; st != nil {
		return st.refuses(h, m.Sequence, id)
	}
	_, failed := b.failed[h]
	return failed
}

// failAll ends a batch of which nothing was sent.
func (b *batch) failAll(s Status, err *fault.Error) {
	for i := range b.results {
		b.fail(i, s, err)
	}
	if st := b.req.Stream; st != nil {
		st.mu.Lock()
		for i := range b.results {
			if m := &b.req.Messages[i]; m.Key != nil {
				b.hold(i, b.keyHash(m.Key))
			}
		}
		st.mu.Unlock()
	}
	b.settled(len(b.results) + 1)
}

// settled counts n messages that have their results; the last one calls back.
func (b *batch) settled(n int) {
	if n == 0 || b.open.Add(-int32(n)) > 0 {
		return
	}
	e := b.e
	if b.app != nil {
		e.limits.give(b.app, b.bytes)
	}
	if b.unwatch != nil {
		b.unwatch()
	}
	b.release()
	e.m.count(b)
	b.done(b.results)
	e.leave()
}
