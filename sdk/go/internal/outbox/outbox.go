// Package outbox is the retry and ordering machine of a publisher: which message goes out next, over which
// stream, what is sent again after a failure, and what each message's one final result is.
//
// It is pure: events in ([Machine.Add], [Machine.Answer], [Machine.Lost] and so on, with the time as an argument),
// commands out ([Machine.Take]). It has no I/O, no goroutines and no clock; one goroutine owns it.
//
// What it promises:
//   - Every added item gets exactly one [Done].
//   - Items of one key are first stored in the order they were added: an item is sent only while every earlier
//     unresolved one of its key is out on the same stream before it, and after a failure the key waits until
//     nothing of it is out, then goes again from the failed one.
//   - Once an item of a key has failed for good, the later ones already added fail with [Preceding].
//   - Nothing is sent at or after its deadline.
//
// What is not obvious: a node refuses a key on a stream after a failure until the failed sequence comes again. If that
// item has been given up, nothing could ever unlock the key there, so the next one of the key makes the machine
// change streams (see stream.poison).
package outbox

import (
	"time"
)

// Status is what became of an item.
type Status uint8

// The states, as in publish.proto.
const (
	Stored Status = iota + 1
	NotReplicated
	NotSent
	MaybeSent
	Refused
)

// Why tells where a final result comes from.
type Why uint8

// The origins of a result.
const (
	// Answered: the node said so; Done.Err is the verdict's.
	Answered Why = iota + 1
	// Deadline: the item's time ran out; Done.Err is the last failure, if there was one.
	Deadline
	// Preceding: an earlier item of the key failed.
	Preceding
	// Cancelled by the caller.
	Cancelled
	// Failed by FailAll.
	Failed
)

// StreamID numbers streams, from 1.
type StreamID uint64

// Verdict is a node's judgement of one item.
type Verdict struct {
	Status Status
	// Retry: the item was not sent, and sending it again may help.
	Retry bool
	// Preceding: it was held back because of an earlier item of its key.
	Preceding bool
	// SlowDown: nothing at all should be sent for After.
	SlowDown bool
	// After is the advised wait before a retry.
	After time.Duration
	// Err is kept for Done.
	Err error
}

// Send is the command to send a batch.
type Send struct {
	Stream  StreamID
	Request uint64
	// Items belong to the machine until they are done; the receiver reads them only.
	Items []*Item
	// Timeout is what is left until the earliest deadline in the batch.
	Timeout time.Duration
}

// Done is the final result of an item.
type Done struct {
	Item   *Item
	Status Status
	Why    Why
	Err    error
}

// Commands are what the machine asks for. The slices are valid until the second next Take, Send.Items until the next event.
type Commands struct {
	Done  []Done
	Sends []Send
	// Open asks for a new stream with this number, 0: none; Leave: at another node than the last one.
	Open  StreamID
	Leave bool
	// Close lists streams that have nothing out any more and are not used again.
	Close []StreamID
	// Drop lists streams that stopped answering: the machine has taken them for lost.
	Drop []StreamID
}

// Config holds the limits of a machine; all must be set.
type Config struct {
	Linger           time.Duration
	MaxBatchBytes    int
	MaxBatchMessages int
	// MaxRequests that may be out on one stream.
	MaxRequests int
	// Grace is how long after its deadline an item that is out may still be answered.
	Grace time.Duration
	// Backoff before a retry without advice, doubled each time up to MaxBackoff.
	Backoff, MaxBackoff time.Duration
}

// deadlineSpread is how far apart the deadlines of one batch may lie: the batch has one time-out, that of its earliest.
const deadlineSpread = time.Second

// maxPoison bounds what a stream remembers of refused keys; past it the stream is changed.
const maxPoison = 1024

// Machine is the state. The zero value is not usable; see New.
type Machine struct {
	cfg        Config
	out, spare Commands

	all   allList
	ready list
	// readyBytes is the size of what stands in ready.
	readyBytes int
	keys       map[string]*key
	freeKeys   []*key
	waiting    waits
	requests   map[uint64]*request
	freeReqs   []*request
	streams    map[StreamID]*stream

	cur         *stream // what new batches go to; nil: none
	opening     StreamID
	openAt      time.Time
	openFails   int
	leave       bool
	lastStream  StreamID
	lastRequest uint64
	pausedUntil time.Time
	flushTo     uint64 // items up to this number leave without linger
	lastAdded   uint64
	minDeadline time.Time // no unresolved item's deadline lies before it; zero: unknown
}

type stream struct {
	id       StreamID
	out      int // requests without an answer
	draining bool
	// poison holds keys that the node refuses on this stream, with the sequence that unlocks them.
	poison map[string]uint64
}

type request struct {
	id     uint64
	stream *stream
	items  []*Item
	latest time.Time // deadline
}

// New makes a machine.
func New(cfg Config) *Machine {
	return &Machine{
		cfg:      cfg,
		keys:     map[string]*key{},
		requests: map[uint64]*request{},
		streams:  map[StreamID]*stream{},
	}
}

// Len is the number of unresolved items.
func (m *Machine) Len() int { return m.all.n }

// Items are those of a request that is out; nil where it is unknown or was answered before.
func (m *Machine) Items(requestID uint64) []*Item {
	if r := m.requests[requestID]; r != nil {
		return r.items
	}
	return nil
}

// Take returns the commands since the last Take.
func (m *Machine) Take() Commands {
	c, old := m.out, m.spare
	clear(old.Done)
	clear(old.Sends)
	m.spare = c
	m.out = Commands{Done: old.Done[:0], Sends: old.Sends[:0], Close: old.Close[:0], Drop: old.Drop[:0]}
	return c
}

// Add takes an item. Sequences grow from item to item.
func (m *Machine) Add(now time.Time, it *Item) {
	m.lastAdded = it.Sequence
	it.queuedAt = now
	m.expect(it)
	m.all.push(it)
	if it.Key != nil {
		m.join(it)
	}
	m.pushReady(it, false)
}

// expect makes sure that expire looks at the item at its deadline.
func (m *Machine) expect(it *Item) {
	if m.minDeadline.IsZero() || it.Deadline.Before(m.minDeadline) {
		m.minDeadline = it.Deadline
	}
}

// Flush lets everything added so far leave without waiting for the linger.
func (m *Machine) Flush() { m.flushTo = m.lastAdded }

// Opened tells that the stream asked for by Commands.Open stands.
func (m *Machine) Opened(now time.Time, id StreamID) {
	if id != m.opening {
		return
	}
	m.opening = 0
	m.cur = &stream{id: id}
	m.streams[id] = m.cur
	m.Tick(now)
}

// Answer brings the verdicts on a request, one per item in order. An unknown request (answered before, or given up) is ignored.
func (m *Machine) Answer(now time.Time, requestID uint64, verdicts []Verdict) {
	r := m.requests[requestID]
	if r == nil {
		return
	}
	m.openFails = 0
	for i, it := range r.items {
		m.judge(now, r.stream, it, verdicts[i])
	}
	s := r.stream
	m.forget(r)
	m.closeIfDrained(s)
}

// GoAway tells that the node wants no more on this stream; what is out is still answered.
func (m *Machine) GoAway(_ time.Time, id StreamID) {
	if s := m.streams[id]; s != nil {
		m.leave = true
		m.drain(s)
	}
}

// Lost tells that a stream ended, or could not be opened: what was out on it may or may not be stored.
func (m *Machine) Lost(now time.Time, id StreamID) {
	if id == m.opening {
		m.opening = 0
		m.failedToOpen(now)
		return
	}
	s := m.streams[id]
	if s == nil {
		return
	}
	delete(m.streams, id)
	if s == m.cur {
		m.cur = nil
		m.failedToOpen(now)
	}
	m.requeue(now, s)
}

// failedToOpen makes the next stream wait longer each time; the first change of node is immediate.
func (m *Machine) failedToOpen(now time.Time) {
	m.leave = true
	m.openAt = now
	if m.openFails > 0 {
		m.openAt = now.Add(m.backoff(m.openFails))
	}
	m.openFails++
}

// Cancel gives an item up. What is out stays out and its later answer is ignored.
func (m *Machine) Cancel(_ time.Time, it *Item) {
	if it.done {
		return
	}
	m.finish(it, m.failStatus(it, NotSent), Cancelled, it.last)
}

// FailAll gives every item up.
func (m *Machine) FailAll(_ time.Time, status Status, err error) {
	for it := m.all.head; it != nil; it = m.all.head {
		m.finishOne(it, m.failStatus(it, status), Failed, err)
	}
}

// drain stops using a stream and closes it once everything on it is answered.
func (m *Machine) drain(s *stream) {
	s.draining = true
	if s == m.cur {
		m.cur = nil
	}
	m.closeIfDrained(s)
}

func (m *Machine) closeIfDrained(s *stream) {
	if s.draining && s.out == 0 && m.streams[s.id] == s {
		delete(m.streams, s.id)
		m.out.Close = append(m.out.Close, s.id)
	}
}

func (m *Machine) forget(r *request) {
	delete(m.requests, r.id)
	r.stream.out--
	clear(r.items)
	r.items, r.stream = r.items[:0], nil
	if len(m.freeReqs) < 16 {
		m.freeReqs = append(m.freeReqs, r)
	}
}

func (m *Machine) backoff(attempt int) time.Duration {
	d := m.cfg.Backoff
	for range min(attempt-1, 20) {
		if d *= 2; d >= m.cfg.MaxBackoff {
			return m.cfg.MaxBackoff
		}
	}
	return d
}
