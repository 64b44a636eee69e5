package embedded

import (
	"sync"

	"github.com/sluice-mq/sluice/internal/mq"
)

// request is one call that changes the store. The committer alone handles it after push.
type request interface {
	// size is about what it adds to the log; 0 for what passes the limits of queue and disk, being small.
	size() int
	// alone: it is staged and committed by itself, since it looks at what is stored.
	alone() bool
	// begin claims the request for the committer; false: its caller has given up and it must have no effect.
	begin() bool
	// stage adds it to the transaction; with an error it must have added nothing.
	stage(*tx) error
	// finish answers, after begin: what became of the transaction, or why it was not staged.
	finish(error)
}

// maxGroupBytes is what one commit takes at most; more waits for the next one.
const maxGroupBytes = 8 << 20

// queue holds requests for the committer, bounded by their bytes.
type queue struct {
	limit int
	m     *metrics
	ready chan struct{} // has an element when there is something to take, or the queue is closed

	mu     sync.Mutex // guards the rest
	items  []request
	head   int
	bytes  int
	closed bool
}

func newQueue(limit int, m *metrics) *queue {
	return &queue{limit: limit, m: m, ready: make(chan struct{}, 1)}
}

// push adds a request; it fails with class Busy when too much waits, and Closed.
func (q *queue) push(r request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := r.size()
	switch {
	case q.closed:
		return errClosed()
	case n > 0 && q.bytes > 0 && q.bytes+n > q.limit:
		q.m.busy.Inc()
		return mq.Errorf(mq.Busy, "%d MiB wait to be written to the embedded store; slow down", q.bytes>>20)
	}
	q.items = append(q.items, r)
	q.bytes += n
	q.signal()
	return nil
}

// take waits for requests and returns those of the next commit, in order; none: the queue is closed and empty.
func (q *queue) take(group []request) []request {
	for {
		q.mu.Lock()
		group = q.next(group)
		over := q.closed && q.head == len(q.items)
		q.mu.Unlock()
		if len(group) > 0 || over {
			return group
		}
		<-q.ready
	}
}

// next takes what is there. The caller holds mu.
func (q *queue) next(group []request) []request {
	size := 0
	for q.head < len(q.items) {
		r := q.items[q.head]
		if len(group) > 0 && (r.alone() || size+r.size() > maxGroupBytes) {
			break
		}
		q.items[q.head] = nil
		q.head++
		size += r.size()
		group = append(group, r)
		if r.alone() {
			break
		}
	}
	q.bytes -= size
	q.m.queueBytes.Set(float64(q.bytes))
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	} else if q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return group
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
