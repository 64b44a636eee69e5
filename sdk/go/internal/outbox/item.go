package outbox

import (
	"container/heap"
	"time"
)

// Item is one message. The caller sets the exported fields before Add and leaves them alone until it is done.
type Item struct {
	// Sequence grows from item to item, from 1.
	Sequence uint64
	// Key is the unit of order; nil: none.
	Key      []byte
	Size     int
	Deadline time.Time
	// Value is the caller's.
	Value any

	key      *key
	queuedAt time.Time
	last     error // the last failure
	attempts int
	maybe    bool // an attempt was lost without an answer
	flying   bool // out, without an answer
	// doomed: an earlier one of its key failed for good. It is not sent again, and when it fails so do the later ones,
	// which may have been added after that earlier failure.
	doomed bool
	done   bool

	in               *list // the list it stands in, nil: none
	next, prev       *Item // in that list
	allNext, allPrev *Item
	keyNext, keyPrev *Item // unresolved items of the key, in order
}

// key is the state of a key with unresolved items, or with something still out.
type key struct {
	name       string
	head, tail *Item // unresolved, in order
	held       list  // waits, in order, for the key to be unblocked
	out        int   // items out without an answer
	stream     *stream
	failed     bool // something has to be sent again: nothing goes out before everything that is out is answered
	retryAt    time.Time
	queued     bool // stands in Machine.waiting
}

// blocked: sending now could overtake what is out elsewhere, or what has to be sent again.
func (k *key) blocked(cur *stream) bool {
	return k.failed || k.held.n > 0 || (k.out > 0 && k.stream != cur)
}

func (m *Machine) join(it *Item) {
	k := m.keys[string(it.Key)]
	if k == nil {
		if n := len(m.freeKeys); n > 0 {
			k, m.freeKeys = m.freeKeys[n-1], m.freeKeys[:n-1]
		} else {
			k = &key{}
		}
		k.name = string(it.Key)
		m.keys[k.name] = k
	}
	it.key = k
	it.keyPrev = k.tail
	if k.tail != nil {
		k.tail.keyNext = it
	} else {
		k.head = it
	}
	k.tail = it
}

// part takes a resolved item out of its key's order.
func (k *key) part(it *Item) {
	if it.keyPrev != nil {
		it.keyPrev.keyNext = it.keyNext
	} else {
		k.head = it.keyNext
	}
	if it.keyNext != nil {
		it.keyNext.keyPrev = it.keyPrev
	} else {
		k.tail = it.keyPrev
	}
	it.keyNext, it.keyPrev = nil, nil
}

// dropKey forgets a key that nothing refers to any more.
func (m *Machine) dropKey(k *key) {
	if k.head != nil || k.out > 0 || k.queued || m.keys[k.name] != k {
		return
	}
	delete(m.keys, k.name)
	*k = key{}
	if len(m.freeKeys) < 64 {
		m.freeKeys = append(m.freeKeys, k)
	}
}

// list is an intrusive list of items.
type list struct {
	head, tail *Item
	n          int
}

func (l *list) pushBack(it *Item) { l.insertAfter(l.tail, it) }

func (l *list) pushFront(it *Item) { l.insertAfter(nil, it) }

// insertSorted keeps the list in order of sequence; most items belong near the end.
func (l *list) insertSorted(it *Item) {
	at := l.tail
	for at != nil && at.Sequence > it.Sequence {
		at = at.prev
	}
	l.insertAfter(at, it)
}

func (l *list) insertAfter(at, it *Item) {
	it.in, it.prev = l, at
	if at == nil {
		it.next, l.head = l.head, it
	} else {
		it.next, at.next = at.next, it
	}
	if it.next == nil {
		l.tail = it
	} else {
		it.next.prev = it
	}
	l.n++
}

func (l *list) remove(it *Item) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		l.head = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		l.tail = it.prev
	}
	it.in, it.next, it.prev = nil, nil, nil
	l.n--
}

// allList holds every unresolved item in the order it was added.
type allList struct {
	head, tail *Item
	n          int
}

func (l *allList) push(it *Item) {
	it.allPrev = l.tail
	if l.tail != nil {
		l.tail.allNext = it
	} else {
		l.head = it
	}
	l.tail = it
	l.n++
}

func (l *allList) remove(it *Item) {
	if it.allPrev != nil {
		it.allPrev.allNext = it.allNext
	} else {
		l.head = it.allNext
	}
	if it.allNext != nil {
		it.allNext.allPrev = it.allPrev
	} else {
		l.tail = it.allPrev
	}
	it.allNext, it.allPrev = nil, nil
	l.n--
}

// waits is a heap of what goes again at a time: an un-keyed item, or a whole key.
type waits []wait

type wait struct {
	at   time.Time
	item *Item
	key  *key
}

func (w waits) Len() int           { return len(w) }
func (w waits) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w waits) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *waits) Push(x any)        { *w = append(*w, x.(wait)) }
func (w *waits) Pop() any {
	old := *w
	x := old[len(old)-1]
	old[len(old)-1] = wait{}
	*w = old[:len(old)-1]
	return x
}

func (w *waits) add(x wait) { heap.Push(w, x) }
