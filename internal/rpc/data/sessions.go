package data

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
)

// sessionKey names the session that pulls of one client share. Pulls that ask for something else under
// the same name get a session of their own.
type sessionKey struct {
	who, group, client, subscription string
}

func keyOf(p pull) sessionKey {
	return sessionKey{
		who: fmt.Sprintf("%q %t %t %q", p.who.App, p.who.Admin, p.who.Anonymous, p.who.Node), group: p.sub.Group, client: p.client,
		subscription: fmt.Sprintf("%q %d %q %d %d", strings.Join(p.sub.Topics, "\x00"), p.sub.Order, p.sub.Start, p.sub.Lease, p.sub.MaxInFlight),
	}
}

// sessions keeps the sessions of named pull clients between their calls.
//
// When a client stays away its session ends, but its leases run on to their deadlines: a lease is a promise that the message
// is not given to another one meanwhile, and a client that works for long makes no calls.
type sessions struct {
	idle    time.Duration
	most    int
	metrics *metrics

	mu     sync.Mutex // guards what follows, and the fields of keptSession
	open   map[sessionKey]*keptSession
	closed bool
}

// keptSession is one session; turn is held by the call that uses it.
type keptSession struct {
	key     sessionKey
	turn    chan struct{}
	session consume.Session // set by the first holder of turn
	users   int
	gone    bool // no longer in the map; the last user closes it
	timer   *time.Timer
}

func newSessions(idle time.Duration, most int, m *metrics) *sessions {
	return &sessions{idle: idle, most: most, metrics: m, open: make(map[sessionKey]*keptSession)}
}

// acquire waits for the client's session and opens it where there is none. Every success needs a release.
func (s *sessions) acquire(ctx context.Context, p pull, open func() (consume.Session, error)) (*keptSession, error) {
	key := keyOf(p)
	s.mu.Lock()
	k := s.open[key]
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, fault.New(fault.GoAway, "the node is stopping; go to another node")
	case k == nil && len(s.open) >= s.most:
		s.mu.Unlock()
		return nil, &fault.Error{Reason: fault.SlowDown, Text: fmt.Sprintf("the node keeps %d pull sessions already; pull without a client name, or at another node", s.most), RetryAfter: time.Second}
	case k == nil:
		k = &keptSession{key: key, turn: make(chan struct{}, 1)}
		s.open[key] = k
		s.metrics.sessions.Inc()
	case k.timer != nil:
		k.timer.Stop()
		k.timer = nil
	}
	k.users++
	s.mu.Unlock()

	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		s.leave(k, false)
		return nil, ctx.Err()
	}
	if k.session == nil {
		var err error
		if k.session, err = open(); err != nil {
			k.session = nil
			<-k.turn
			s.leave(k, true)
			return nil, err
		}
	}
	return k, nil
}

// release ends a use; a broken session is not kept.
func (s *sessions) release(k *keptSession, broken bool) {
	<-k.turn
	s.leave(k, broken)
}

func (s *sessions) leave(k *keptSession, drop bool) {
	s.mu.Lock()
	k.users--
	if drop {
		s.drop(k)
	}
	last := k.users == 0
	gone := k.gone
	if last && !gone {
		k.timer = time.AfterFunc(s.idle, func() { s.expire(k) })
	}
	s.mu.Unlock()
	if last && gone && k.session != nil {
		k.session.Close(false)
	}
}

// drop takes a session out of the map; mu is held.
func (s *sessions) drop(k *keptSession) {
	if !k.gone {
		k.gone = true
		delete(s.open, k.key)
		s.metrics.sessions.Dec()
	}
}

// expire ends a session that nobody used for the idle time.
func (s *sessions) expire(k *keptSession) {
	s.mu.Lock()
	if k.users > 0 || k.gone {
		s.mu.Unlock()
		return
	}
	s.drop(k)
	s.mu.Unlock()
	if k.session != nil {
		k.session.Close(false)
	}
}

// close ends all sessions that are not in use; those in use end with their calls.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	var idle []*keptSession
	for _, k := range s.open {
		if k.timer != nil {
			k.timer.Stop()
		}
		s.drop(k)
		if k.users == 0 {
			idle = append(idle, k)
		}
	}
	s.mu.Unlock()
	for _, k := range idle {
		if k.session != nil {
			k.session.Close(false)
		}
	}
}
