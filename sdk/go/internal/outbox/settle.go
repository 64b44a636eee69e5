package outbox

import (
	"cmp"
	"slices"
	"time"
)

// judge applies one verdict. It also runs for items that were given up meanwhile: what the node knows of their key counts.
func (m *Machine) judge(now time.Time, s *stream, it *Item, v Verdict) {
	it.flying = false
	k := it.key
	if k != nil {
		k.out--
		if v.Status >= NotSent {
			m.poison(s, it, v.Preceding)
		}
	}
	if v.Err != nil {
		it.last = v.Err
	}
	if v.SlowDown {
		if until := now.Add(max(v.After, m.cfg.Backoff)); until.After(m.pausedUntil) {
			m.pausedUntil = until
		}
	}
	switch {
	case it.done:
	case !v.Retry:
		status := v.Status
		if status >= NotSent {
			status = m.failStatus(it, status)
		}
		m.finish(it, status, Answered, v.Err)
	case it.doomed:
		m.finish(it, m.failStatus(it, NotSent), Preceding, nil)
	default:
		m.again(now, it, v)
	}
	if k != nil {
		m.settleKey(now, k)
	}
}

// poison remembers that the node refuses the key on this stream until the failed sequence comes again.
func (m *Machine) poison(s *stream, it *Item, preceding bool) {
	if s.poison == nil {
		s.poison = map[string]uint64{}
	}
	if _, ok := s.poison[it.key.name]; ok {
		return
	}
	seq := it.Sequence
	if preceding {
		seq = 0 // what it waits for is not known here: only another stream helps
	}
	s.poison[it.key.name] = seq
}

// again plans a retry of an item that was not sent.
func (m *Machine) again(now time.Time, it *Item, v Verdict) {
	m.expect(it)
	at := now
	if first := it.key == nil || it.key.head == it; first && (!v.Preceding || it.attempts > 1) {
		at = now.Add(max(v.After, m.backoff(it.attempts)))
	}
	if it.key == nil {
		m.waiting.add(wait{at: at, item: it})
		return
	}
	it.key.held.insertSorted(it)
	it.key.failed = true
	if at.After(it.key.retryAt) {
		it.key.retryAt = at
	}
}

// settleKey lets a key go on once nothing of it is out any more.
func (m *Machine) settleKey(now time.Time, k *key) {
	if k.out == 0 && (k.failed || k.held.n > 0) && !k.queued {
		if k.retryAt.After(now) {
			k.queued = true
			m.waiting.add(wait{at: k.retryAt, key: k})
		} else {
			m.unblock(now, k)
		}
	}
	m.dropKey(k)
}

// unblock puts what a key held back in front of everything: what still stands in ready of this key came later.
func (m *Machine) unblock(_ time.Time, k *key) {
	if k.out > 0 {
		return // settleKey comes again with the last answer
	}
	k.failed = false
	k.retryAt = time.Time{}
	for it := k.held.tail; it != nil; it = k.held.tail {
		k.held.remove(it)
		m.pushReady(it, true)
	}
}

// requeue takes back what was out on a lost stream, to be sent again in order.
func (m *Machine) requeue(now time.Time, s *stream) {
	var lost []*request
	for _, r := range m.requests {
		if r.stream == s {
			lost = append(lost, r)
		}
	}
	slices.SortFunc(lost, func(a, b *request) int { return cmp.Compare(b.id, a.id) })
	// From the last to the first, because each goes in front.
	for _, r := range lost {
		for _, it := range slices.Backward(r.items) {
			m.takeBack(it)
		}
	}
	for _, r := range lost {
		for _, it := range r.items {
			if it.key != nil && it.key.out == 0 {
				m.settleKey(now, it.key)
			}
		}
		m.forget(r)
	}
}

func (m *Machine) takeBack(it *Item) {
	it.flying, it.maybe = false, true
	m.expect(it)
	if it.key != nil {
		it.key.out--
	}
	switch {
	case it.done:
	case it.doomed:
		m.finish(it, MaybeSent, Preceding, nil)
	case it.key == nil:
		m.pushReady(it, true)
	default:
		it.key.held.insertSorted(it)
		it.key.failed = true
	}
}

// failStatus is the status of a failure, given what may have become of earlier attempts.
func (m *Machine) failStatus(it *Item, s Status) Status {
	if it.maybe || it.flying {
		return MaybeSent
	}
	return s
}

// finish resolves an item; where it failed, so do the later ones of its key.
func (m *Machine) finish(it *Item, s Status, why Why, err error) {
	if k := it.key; k != nil && s >= NotSent {
		for later := it.keyNext; later != nil; {
			next := later.keyNext
			if later.flying {
				later.doomed = true
			} else {
				m.finishOne(later, m.failStatus(later, NotSent), Preceding, nil)
			}
			later = next
		}
	}
	m.finishOne(it, s, why, err)
}

func (m *Machine) finishOne(it *Item, s Status, why Why, err error) {
	it.done = true
	switch it.in {
	case nil:
	case &m.ready:
		m.popReady(it)
	default:
		it.in.remove(it)
	}
	m.all.remove(it)
	m.out.Done = append(m.out.Done, Done{Item: it, Status: s, Why: why, Err: err})
	if k := it.key; k != nil {
		k.part(it)
		if k.head == nil {
			k.failed = false
		}
		m.dropKey(k)
	}
}

// expire gives up what is past its deadline: at once what is not out, after the grace what is.
func (m *Machine) expire(now time.Time) {
	if m.minDeadline.IsZero() || now.Before(m.minDeadline) {
		return
	}
	var next time.Time
	earlier := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for it := m.all.head; it != nil; {
		end := it.Deadline
		if it.flying {
			end = end.Add(m.cfg.Grace)
		}
		if end.After(now) {
			earlier(end)
			it = it.allNext
			continue
		}
		// finish may resolve later items too, so the walk starts again behind what is certainly still there.
		prev := it.allPrev
		m.finish(it, m.failStatus(it, NotSent), Deadline, it.last)
		if it = m.all.head; prev != nil {
			it = prev.allNext
		}
	}
	m.dropSilent(now, earlier)
	m.minDeadline = next
}

// dropSilent takes a stream for lost on which a request is unanswered long after the node should have answered.
func (m *Machine) dropSilent(now time.Time, earlier func(time.Time)) {
	var silent []StreamID
	for _, r := range m.requests {
		end := r.latest.Add(2 * m.cfg.Grace)
		if end.After(now) {
			earlier(end)
		} else if !slices.Contains(silent, r.stream.id) {
			silent = append(silent, r.stream.id)
		}
	}
	for _, id := range silent {
		m.out.Drop = append(m.out.Drop, id)
		m.Lost(now, id)
	}
}
