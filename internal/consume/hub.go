package consume

import (
	"slices"
	"sync"
	"sync/atomic"
)

// hub brings a group's waiting sessions and its ready lanes together. Topics are bits: of what a lane has ready, and
// of what a session wants.
type hub struct {
	lanes   atomic.Pointer[[]*partition] // replaced, never changed
	turn    atomic.Uint32                // where the next look at the lanes starts
	waiters atomic.Int32                 // len(waiting), to be asked without the lock

	mu      sync.Mutex // guards waiting and the replacing of lanes
	waiting []*session // first come, first served
}

// add and remove keep the list of lanes.
func (h *hub) add(p *partition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := append(slices.Clone(h.all()), p)
	h.lanes.Store(&next)
}

func (h *hub) remove(p *partition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(h.all()), func(o *partition) bool { return o == p })
	h.lanes.Store(&next)
}

func (h *hub) all() []*partition {
	if p := h.lanes.Load(); p != nil {
		return *p
	}
	return nil
}

// ready tells whether a lane has something of those topics.
func (h *hub) ready(topics uint64) bool {
	for _, p := range h.all() {
		if p.ready.Load()&topics != 0 {
			return true
		}
	}
	return false
}

// offer wakes the first waiting session that wants one of the topics. It will look, take what it can, and
// the lane offers again what is left.
func (h *hub) offer(topics uint64) {
	if topics == 0 || h.waiters.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, s := range h.waiting {
		if s.topics&topics != 0 {
			h.waiting = slices.Delete(h.waiting, i, i+1)
			h.waiters.Add(-1)
			s.poke()
			return
		}
	}
}

// wait registers a session; leave takes it out and tells whether it had been woken instead.
func (h *hub) wait(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting = append(h.waiting, s)
	h.waiters.Add(1)
}

func (h *hub) leave(s *session) (woken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.waiting, s)
	if i < 0 {
		return true
	}
	h.waiting = slices.Delete(h.waiting, i, i+1)
	h.waiters.Add(-1)
	return false
}

// passOn gives a wake-up to the next one, when its taker leaves with nothing.
func (h *hub) passOn() {
	var topics uint64
	for _, p := range h.all() {
		topics |= p.ready.Load()
	}
	h.offer(topics)
}
