package lane

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/mq"
)

// overhead is about what a message takes besides its record: slot, ring, timer.
const overhead = 256

// minRing is the window that a quiet lane has memory for.
const minRing = 64

// shrinkAbove: a lane that ran empty gives its memory back where it had more slots.
const shrinkAbove = 1024

// Admit takes a fetched message, in offset order. It answers false where the
// window has no room; the caller keeps the message and comes again after the
// prefix moved. A message that is known, or done according to the owner before,
// is passed over.
func (l *Lane) Admit(now time.Duration, m Message) bool {
	at, ok := l.place(m)
	if !ok {
		return false
	}
	if at == none {
		return true
	}
	s := &l.slots[at]
	l.link(at)
	if m.Due > now {
		l.wait(at, m.Due)
	} else {
		l.offer(at)
	}
	s.msg.Due = 0
	return true
}

// AdmitDead takes a message that cannot be delivered, straight to the dead letters.
// What Admit says of room holds.
func (l *Lane) AdmitDead(m Message, cause string) bool {
	at, ok := l.place(m)
	if !ok {
		return false
	}
	if at != none {
		l.link(at)
		l.die(at, cause)
	}
	return true
}

// place makes a slot in state ready, not linked yet; none where the message needs none.
func (l *Lane) place(m Message) (int32, bool) {
	if m.Offset < l.next {
		return none, true
	}
	if l.base == l.next {
		l.jump(m.Offset)
	}
	if m.Offset-l.base >= int64(l.cfg.Window) {
		return none, false
	}
	l.grow(int(m.Offset - l.base + 1)) // for a done one too: the ring must not wrap onto open ones
	if l.carried.Done(m.Offset - l.carriedAt) {
		l.next = m.Offset + 1
		l.passed = max(l.passed, l.next)
		l.advance()
		return none, true
	}
	at := l.newSlot()
	s := &l.slots[at]
	*s = slot{
		msg: m, chain: none, prev: none, next: none, timer: none,
		attempts: int32(m.Attempts), bytes: int32(overhead),
	}
	if m.Record != nil {
		s.bytes += int32(m.Record.Bytes())
	}
	l.bytes += int(s.bytes)
	l.count(s, 1)
	l.ring[m.Offset&int64(len(l.ring)-1)] = at
	l.next = m.Offset + 1
	l.passed = max(l.passed, l.next)
	return at, true
}

// jump moves an empty window to an offset: what lies between holds no message.
func (l *Lane) jump(to int64) {
	if to > l.base {
		l.base, l.next = to, to
		l.version++
	}
}

// Pass says that everything below offset was admitted or holds no message.
func (l *Lane) Pass(offset int64) {
	l.passed = max(l.passed, offset)
	l.pass()
}

// pass moves next over what is known to be empty, as far as the window reaches.
func (l *Lane) pass() {
	for l.next < l.passed {
		if l.base == l.next {
			l.jump(l.passed)
			return
		}
		to := min(l.passed, l.base+int64(l.cfg.Window))
		if to <= l.next {
			return
		}
		l.grow(int(to - l.base))
		l.next = to
		l.advance()
	}
}

// advance moves the prefix over what is done.
func (l *Lane) advance() {
	mask := int64(len(l.ring) - 1)
	for l.base < l.next && l.ring[l.base&mask] == none {
		l.base++
	}
	l.version++
	if l.base == l.next && len(l.slots) > shrinkAbove && len(l.free) == len(l.slots) {
		l.empty()
	}
}

// Full tells whether the window has no room for one more offset.
func (l *Lane) Full() bool { return l.next-l.base >= int64(l.cfg.Window) }

// Base is the done prefix: everything below it is done. Next is the first offset that is not known.
func (l *Lane) Base() int64 { return l.base }

// Next is the first offset that is not known yet; what was passed counts as known.
func (l *Lane) Next() int64 { return max(l.next, l.passed) }

// Span is how many offsets the window holds, done ones included.
func (l *Lane) Span() int { return int(l.next - l.base) }

// Blocked says why the window stands still, "" where it does not.
func (l *Lane) Blocked() string {
	if !l.Full() {
		return ""
	}
	s := &l.slots[l.ring[l.base&int64(len(l.ring)-1)]]
	what := [...]string{ready: "not delivered yet", leased: "leased", waiting: "in back-off", dying: "on its way to the dead letters", parking: "being parked"}
	return fmt.Sprintf("window full: offset %d is %s (attempt %d)", l.base, what[s.state], s.attempts)
}

// Position is what a commit may say.
type Position struct {
	Offset  int64
	Map     ackmap.Map
	Version uint64 // for Committed
}

// Dirty tells whether something was done since the last Committed.
func (l *Lane) Dirty() bool { return l.version != l.committed }

// Version grows with everything that a commit could say.
func (l *Lane) Version() uint64 { return l.version }

// Position is the prefix and what is done beyond it, that which the owner before
// did and this one has not seen yet included.
func (l *Lane) Position() Position {
	p := Position{Offset: l.base, Version: l.version}
	if l.cfg.NoMap {
		return p
	}
	end := max(l.next, l.carriedAt+1+int64(len(l.carried.Words)*64))
	n := min(end-l.base-1, int64(l.cfg.Window)-1)
	if n <= 0 {
		return p
	}
	p.Map.Words = make([]uint64, (n+63)/64)
	mask := int64(len(l.ring) - 1)
	for i := range n {
		offset := l.base + 1 + i
		if offset < l.next && l.ring[offset&mask] == none || offset >= l.next && l.carried.Done(offset-l.carriedAt) {
			p.Map.Words[i/64] |= 1 << (i % 64)
		}
	}
	return p
}

// Committed says that the broker has that position.
func (l *Lane) Committed(version uint64) { l.committed = max(l.committed, version) }

// Restart drops everything and goes on at offset: the log below it is another
// one, or gone. All leases are called off.
func (l *Lane) Restart(offset int64) {
	for i := l.base; i < l.next; i++ {
		if at := l.ring[i&int64(len(l.ring)-1)]; at != none && l.slots[at].state == leased {
			l.revoke(at)
		}
	}
	l.empty()
	l.open, l.held, l.bytes = [parking + 1]int{}, [parking + 1]int{}, 0
	l.base, l.next, l.passed = offset, offset, offset
	l.carried = ackmap.Map{}
	l.version++
}

// Revoke calls off all leases, for a partition that is lost.
func (l *Lane) Revoke() { l.Restart(l.base) }

// lookup is the slot of an offset; none: done or unknown.
func (l *Lane) lookup(offset int64) int32 {
	if offset < l.base || offset >= l.next {
		return none
	}
	return l.ring[offset&int64(len(l.ring)-1)]
}

// remove frees the slot of a message that is done.
func (l *Lane) remove(at int32) {
	s := &l.slots[at]
	l.stopTimer(at)
	l.unlink(at)
	l.count(s, -1)
	l.bytes -= int(s.bytes)
	l.ring[s.msg.Offset&int64(len(l.ring)-1)] = none
	s.msg = Message{}
	l.free = append(l.free, at)
	l.advance()
	l.pass()
}

func (l *Lane) newSlot() int32 {
	if n := len(l.free); n > 0 {
		at := l.free[n-1]
		l.free = l.free[:n-1]
		return at
	}
	l.slots = append(l.slots, slot{})
	return int32(len(l.slots) - 1)
}

// grow makes the ring hold n offsets from base on.
func (l *Lane) grow(n int) {
	if n <= len(l.ring) {
		return
	}
	size := len(l.ring)
	for size < n {
		size *= 2
	}
	ring := newRing(size)
	for i := l.base; i < l.next; i++ {
		ring[i&int64(size-1)] = l.ring[i&int64(len(l.ring)-1)]
	}
	l.ring = ring
	l.ended.grow(size)
}

func newRing(n int) []int32 { return slices.Repeat([]int32{none}, n) }

// detach gives a message that stays for long memory of its own, so that it does not hold its whole batch.
func detach(m *Message) {
	if m.Record == nil {
		return
	}
	r := *m.Record
	r.Key, r.Body, m.ID = slices.Clone(r.Key), slices.Clone(r.Body), slices.Clone(m.ID)
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		r.Headers[i].Value = slices.Clone(r.Headers[i].Value)
	}
	m.Record = &mq.Record{Key: r.Key, Body: r.Body, Headers: r.Headers, Tag: r.Tag, Timestamp: r.Timestamp, Offset: r.Offset}
}
