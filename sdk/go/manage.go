package sluice

import (
	"context"
	"slices"
	"time"
)

// tick is how often leases and idle credit are looked at; leases last a second at least.
const tick = 200 * time.Millisecond

// target is a node to have a stream to.
type target struct {
	stream   *consumeStream // nil: none
	failures int
	retryAt  time.Time
	err      error // why the last stream ended
}

// manage keeps one stream to each node that serves the group.
func (r *Receiver) manage() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		r.mu.Lock()
		r.connect(time.Now())
		r.mu.Unlock()
		select {
		case <-r.ctx.Done():
			return
		case <-r.kicks:
		case <-t.C:
			r.mu.Lock()
			now := time.Now()
			r.renew(now)
			if len(r.credits.shares) > 1 {
				r.reclaim(now)
			}
			r.mu.Unlock()
		}
	}
}

// connect opens what is missing and ends what is not wanted any more. The mutex is held.
func (r *Receiver) connect(now time.Time) {
	wanted := r.wanted(now)
	live := false
	for _, addr := range wanted {
		t := r.targets[addr]
		if t == nil {
			t = &target{}
			r.targets[addr] = t
		}
		if t.stream == nil && !r.closing && r.fatal == nil && !now.Before(t.retryAt) {
			r.open(addr, t)
		}
		live = live || (t.stream != nil && t.stream.open && !t.stream.leaving)
	}
	for addr, t := range r.targets {
		s := t.stream
		switch {
		case s == nil:
			if !slices.Contains(wanted, addr) && now.After(t.retryAt.Add(avoidFor)) {
				delete(r.targets, addr)
			}
		case live && !s.leaving && !slices.Contains(wanted, addr):
			r.leave(s)
		}
		if s != nil && s.leaving && !s.closing && s.share.used == 0 && len(s.acks) == 0 && len(s.sent) == 0 {
			s.halfClose()
		}
	}
}

// wanted lists the nodes to have streams to: those of the group; while none of them can be reached, any other node, which
// passes the group's messages on. The mutex is held.
func (r *Receiver) wanted(now time.Time) []string {
	if len(r.group) > 0 {
		for _, addr := range r.group {
			if t := r.targets[addr]; t == nil || t.failures < 2 || (t.stream != nil && t.stream.open) {
				return r.group
			}
		}
	}
	for addr, t := range r.targets {
		if t.stream != nil && !t.stream.leaving && !slices.Contains(r.group, addr) {
			return append(slices.Clone(r.group), addr) // the substitute that is there already
		}
	}
	// A substitute that failed makes room for the next one.
	for _, addr := range r.c.nodes.candidates(roleConsumer, "") {
		if t := r.targets[addr]; !slices.Contains(r.group, addr) && (t == nil || !now.Before(t.retryAt)) {
			return append(slices.Clone(r.group), addr)
		}
	}
	return r.group
}

// open starts a stream. The mutex is held.
func (r *Receiver) open(addr string, t *target) {
	s := newConsumeStream(r, addr)
	t.stream = s
	r.streams++
	r.wg.Go(func() {
		err := s.run()
		s.cancel(nil)
		r.lostStream(s, err)
	})
}

// lostStream takes leave of a stream that ended: its acks are settled through other nodes, what the application has not
// seen is given back, since a new owner delivers it again.
func (r *Receiver) lostStream(s *consumeStream, cause error) {
	now := time.Now()
	err := fromCall(s.addr, cause)
	r.mu.Lock()
	s.dead = true
	expected := s.leaving || r.closing || s.closing
	r.credits.close(s.share)
	if t := r.targets[s.addr]; t != nil && t.stream == s {
		t.stream = nil
		if !expected {
			t.err = err
			t.retryAt = now
			if t.failures++; t.failures > 1 || !s.open {
				t.retryAt = now.Add(min(50*time.Millisecond<<min(t.failures, 6), 2*time.Second))
			}
			if hopeless(err) {
				r.fatal = err
			}
		}
	}
	for _, id := range sortedKeys(s.sent) {
		for _, j := range s.sent[id] {
			r.orphan(j)
		}
	}
	for _, j := range s.acks {
		r.orphan(j)
	}
	s.sent, s.acks = nil, nil
	r.returnQueued(func(l *lease) bool { return l.s == s })
	r.streams--
	r.grant()
	r.changed()
	r.mu.Unlock()
	r.kick()
	if !expected {
		r.c.nodes.avoid(s.addr)
		r.c.log.Warn("consume stream lost", "group", r.sub.Group, "node", s.addr, "err", err)
		r.reconnected(s.addr, err)
		r.refresh()
	}
}

// refresh asks for the group's nodes, since a lost one may be gone for good.
func (r *Receiver) refresh() {
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	for _, addr := range r.c.nodes.candidates(roleConsumer, "") {
		ns, err := r.c.nodes.ask(ctx, addr, r.sub.Group)
		if err != nil {
			continue
		}
		var addrs []string
		for _, n := range ns {
			if n.GetGrpc() != "" {
				addrs = append(addrs, n.GetGrpc())
			}
		}
		r.mu.Lock()
		if len(addrs) > 0 {
			r.group = addrs
		}
		r.mu.Unlock()
		r.kick()
		return
	}
}

// reclaim ends a stream that sits on credit another one needs; it is opened again with less. The mutex is held.
func (r *Receiver) reclaim(now time.Time) {
	idle := r.credits.reclaim(now)
	if idle == nil {
		return
	}
	for _, t := range r.targets {
		if s := t.stream; s != nil && s.share == idle && !s.closing {
			t.retryAt = now
			s.halfClose()
			return
		}
	}
}

func (r *Receiver) reconnected(node string, err *Error) {
	if hook := r.c.opts.hooks.OnReconnect; hook != nil {
		e := ReconnectEvent{Group: r.sub.Group, Node: node}
		if err != nil {
			e.Err = err
		}
		hook(e)
	}
}
