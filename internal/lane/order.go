package lane

import (
	"slices"

	"github.com/cespare/xxhash/v2"
)

// chain is the messages of one key, or of the partition, that are not done.
type chain struct {
	head, tail int32 // slots in offset order
	prev, next int32 // in the queue of chains that may go out
	open       int32 // leases out
	key        uint64
	keyed      bool // found under key
	queued     bool
}

func sortOffsets(o []int64) { slices.Sort(o) }

// link puts a new slot behind its chain; mode Any has none.
func (l *Lane) link(at int32) {
	if l.cfg.Mode == Any {
		return
	}
	s := &l.slots[at]
	c := l.chainOf(s)
	s.chain = c
	ch := &l.chains[c]
	s.prev, s.next = ch.tail, none
	if ch.tail == none {
		ch.head = at
	} else {
		l.slots[ch.tail].next = at
	}
	ch.tail = at
}

func (l *Lane) chainOf(s *slot) int32 {
	var key uint64
	keyed := true
	if l.cfg.Mode == ByKey {
		if keyed = s.msg.Record != nil && s.msg.Record.Key != nil; keyed {
			key = xxhash.Sum64(s.msg.Record.Key)
		}
	}
	if keyed {
		if c, ok := l.keys[key]; ok {
			return c
		}
	}
	var c int32
	if n := len(l.unused); n > 0 {
		c = l.unused[n-1]
		l.unused = l.unused[:n-1]
	} else {
		l.chains = append(l.chains, chain{})
		c = int32(len(l.chains) - 1)
	}
	l.chains[c] = chain{head: none, tail: none, prev: none, next: none, key: key, keyed: keyed}
	if keyed {
		l.keys[key] = c
	}
	return c
}

// unlink takes a slot out of its chain or queue.
func (l *Lane) unlink(at int32) {
	s := &l.slots[at]
	if s.chain == none {
		l.withdraw(at)
		return
	}
	c := &l.chains[s.chain]
	if s.prev == none {
		c.head = s.next
	} else {
		l.slots[s.prev].next = s.next
	}
	if s.next == none {
		c.tail = s.prev
	} else {
		l.slots[s.next].prev = s.prev
	}
	in := s.chain
	s.chain, s.prev, s.next = none, none, none
	l.settleChain(in)
}

// settleChain puts a chain where it belongs after a change: out of the queue while a lease is out or its head cannot
// go out, into it when it can, and away when it is empty.
func (l *Lane) settleChain(c int32) {
	if c == none {
		return
	}
	ch := &l.chains[c]
	may := ch.open == 0 && ch.head != none && l.slots[ch.head].state == ready
	switch {
	case may && !ch.queued:
		l.enqueue(c)
	case !may && ch.queued:
		l.dequeue(c)
	}
	if ch.head == none {
		if ch.keyed {
			delete(l.keys, ch.key)
		}
		l.unused = append(l.unused, c)
	}
}

// takeBackBehind ends the run behind a message: what is leased there goes back without an attempt.
func (l *Lane) takeBackBehind(at int32) {
	if l.slots[at].chain == none {
		return
	}
	for next := l.slots[at].next; next != none; next = l.slots[next].next {
		if l.slots[next].state == leased {
			l.revoke(next)
		}
	}
}

// offer makes a ready slot available.
func (l *Lane) offer(at int32) {
	s := &l.slots[at]
	if s.chain != none {
		l.settleChain(s.chain)
		return
	}
	q := &l.queues[l.queueOf(s)]
	s.prev, s.next = q.tail, none
	if q.tail == none {
		q.head = at
	} else {
		l.slots[q.tail].next = at
	}
	q.tail = at
}

// offerFront makes a slot available that was out before: it goes first, since it holds the window.
func (l *Lane) offerFront(at int32) {
	s := &l.slots[at]
	if s.chain != none {
		l.settleChain(s.chain)
		return
	}
	q := &l.queues[l.queueOf(s)]
	s.prev, s.next = none, q.head
	if q.head == none {
		q.tail = at
	} else {
		l.slots[q.head].prev = at
	}
	q.head = at
}

func (l *Lane) queueOf(s *slot) int {
	if int(s.msg.Policy) < len(l.cfg.Policies) {
		return int(s.msg.Policy)
	}
	return 0
}

// withdraw takes a slot of mode Any out of what could make it go out: its queue or its timer.
func (l *Lane) withdraw(at int32) {
	s := &l.slots[at]
	l.stopTimer(at)
	if s.chain == none && s.state == ready {
		l.unqueue(at)
	}
}

// unqueue takes a ready slot out of its queue; one that is in none stays as it is.
func (l *Lane) unqueue(at int32) {
	s := &l.slots[at]
	q := &l.queues[l.queueOf(s)]
	if s.prev == none && q.head != at {
		return
	}
	if s.prev == none {
		q.head = s.next
	} else {
		l.slots[s.prev].next = s.next
	}
	if s.next == none {
		q.tail = s.prev
	} else {
		l.slots[s.next].prev = s.prev
	}
	s.prev, s.next = none, none
}

func (l *Lane) enqueue(c int32) {
	ch := &l.chains[c]
	ch.queued, ch.prev, ch.next = true, l.queued.tail, none
	if l.queued.tail == none {
		l.queued.head = c
	} else {
		l.chains[l.queued.tail].next = c
	}
	l.queued.tail = c
}

func (l *Lane) dequeue(c int32) {
	ch := &l.chains[c]
	if ch.prev == none {
		l.queued.head = ch.next
	} else {
		l.chains[ch.prev].next = ch.next
	}
	if ch.next == none {
		l.queued.tail = ch.prev
	} else {
		l.chains[ch.next].prev = ch.prev
	}
	ch.queued, ch.prev, ch.next = false, none, none
}

// relink sorts all messages anew after a change of mode or of the policies. Leases stay: a chain with several waits for
// all of them.
func (l *Lane) relink() {
	l.chains, l.unused = nil, nil
	clear(l.keys)
	l.queued = list{none, none}
	for i := range l.queues {
		l.queues[i] = list{none, none}
	}
	mask := int64(len(l.ring) - 1)
	for o := l.base; o < l.next; o++ {
		at := l.ring[o&mask]
		if at == none {
			continue
		}
		s := &l.slots[at]
		s.chain, s.prev, s.next = none, none, none
		l.link(at)
		if s.chain != none && s.state == leased {
			l.chains[s.chain].open++
		}
		if s.state == ready {
			l.offer(at)
		} else if s.chain != none {
			l.settleChain(s.chain)
		}
	}
}
