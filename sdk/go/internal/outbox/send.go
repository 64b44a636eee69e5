package outbox

import (
	"container/heap"
	"time"
)

// Tick does what is due: retries, deadlines, batches. Call it after every event and at the time of Next.
func (m *Machine) Tick(now time.Time) {
	m.expire(now)
	for len(m.waiting) > 0 && !m.waiting[0].at.After(now) {
		w := heap.Pop(&m.waiting).(wait)
		switch {
		case w.key != nil:
			w.key.queued = false
			m.unblock(now, w.key)
			m.dropKey(w.key)
		case !w.item.done:
			m.pushReady(w.item, true)
		}
	}
	m.pump(now)
}

// pump sends what may be sent and asks for a stream where one is missing.
func (m *Machine) pump(now time.Time) {
	for m.ready.n > 0 && !now.Before(m.pausedUntil) {
		if m.cur == nil {
			m.open(now)
			return
		}
		if m.cur.out >= m.cfg.MaxRequests || !m.due(now) {
			return
		}
		if !m.sendBatch(now) && m.cur != nil {
			return
		}
	}
}

func (m *Machine) open(now time.Time) {
	if m.opening != 0 || now.Before(m.openAt) {
		return
	}
	m.lastStream++
	m.opening = m.lastStream
	m.out.Open, m.out.Leave = m.opening, m.leave
	m.leave = false
}

// due: the batch is full, has waited long enough, or nothing is out that it could wait for.
func (m *Machine) due(now time.Time) bool {
	head := m.ready.head
	return m.cur.out == 0 ||
		m.readyBytes >= m.cfg.MaxBatchBytes ||
		m.ready.n >= m.cfg.MaxBatchMessages ||
		head.attempts > 0 ||
		head.Sequence <= m.flushTo ||
		!head.queuedAt.Add(m.cfg.Linger).After(now)
}

// sendBatch sends the next batch; false where nothing could be sent.
func (m *Machine) sendBatch(now time.Time) bool {
	r := m.newRequest()
	var earliest time.Time
	for size := 0; m.ready.n > 0 && len(r.items) < m.cfg.MaxBatchMessages; {
		it := m.ready.head
		if !it.Deadline.After(now) {
			m.finish(it, m.failStatus(it, NotSent), Deadline, it.last)
			continue
		}
		if k := it.key; k != nil {
			if k.blocked(m.cur) {
				m.popReady(it)
				k.held.insertSorted(it)
				continue
			}
			if !m.unlocks(it) {
				break
			}
		}
		if len(r.items) > 0 && (size+it.Size > m.cfg.MaxBatchBytes || spread(earliest, r.latest, it.Deadline) > deadlineSpread) {
			break
		}
		m.take(it, r)
		size += it.Size
		if earliest.IsZero() || it.Deadline.Before(earliest) {
			earliest = it.Deadline
		}
		if it.Deadline.After(r.latest) {
			r.latest = it.Deadline
		}
	}
	poisoned := m.ready.n > 0 && m.ready.head.key != nil && !m.unlocks(m.ready.head) && !m.ready.head.key.blocked(m.cur)
	sent := len(r.items) > 0
	if sent {
		m.lastRequest++
		r.id, r.stream = m.lastRequest, m.cur
		m.requests[r.id] = r
		m.cur.out++
		m.out.Sends = append(m.out.Sends, Send{Stream: m.cur.id, Request: r.id, Items: r.items, Timeout: earliest.Sub(now)})
	} else {
		m.freeReqs = append(m.freeReqs, r)
	}
	if poisoned || len(m.cur.poison) > maxPoison {
		m.drain(m.cur)
	}
	return sent
}

// unlocks: the node does not refuse the item's key on this stream, or the item is the one that lifts the refusal.
func (m *Machine) unlocks(it *Item) bool {
	if len(m.cur.poison) == 0 {
		return true
	}
	seq, ok := m.cur.poison[it.key.name]
	return !ok || seq == it.Sequence
}

// take moves an item from ready into a request of the current stream.
func (m *Machine) take(it *Item, r *request) {
	m.popReady(it)
	it.flying = true
	it.attempts++
	if k := it.key; k != nil {
		k.out++
		k.stream = m.cur
		if m.cur.poison != nil {
			delete(m.cur.poison, k.name)
		}
	}
	r.items = append(r.items, it)
}

func spread(lo, hi, t time.Time) time.Duration {
	return max(hi.Sub(t), t.Sub(lo))
}

func (m *Machine) newRequest() *request {
	if n := len(m.freeReqs); n > 0 {
		r := m.freeReqs[n-1]
		m.freeReqs = m.freeReqs[:n-1]
		r.latest = time.Time{}
		return r
	}
	return &request{}
}

func (m *Machine) pushReady(it *Item, front bool) {
	if front {
		m.ready.pushFront(it)
	} else {
		m.ready.pushBack(it)
	}
	m.readyBytes += it.Size
}

func (m *Machine) popReady(it *Item) {
	m.ready.remove(it)
	m.readyBytes -= it.Size
}

// Next is when Tick is due again if nothing else happens before; false: not at all.
func (m *Machine) Next(now time.Time) (time.Time, bool) {
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if m.all.n > 0 || len(m.requests) > 0 {
		earlier(m.minDeadline)
	}
	if len(m.waiting) > 0 {
		earlier(m.waiting[0].at)
	}
	if m.ready.n > 0 {
		switch {
		case now.Before(m.pausedUntil):
			earlier(m.pausedUntil)
		case m.cur == nil && m.opening == 0:
			earlier(m.openAt)
		case m.cur != nil && m.cur.out < m.cfg.MaxRequests:
			earlier(m.ready.head.queuedAt.Add(m.cfg.Linger))
		}
	}
	return at, !at.IsZero()
}
