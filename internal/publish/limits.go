package publish

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// maxApps bounds the table of apps; idle ones make room. Apps come from tokens
// of the snapshot, so a full table of busy ones means that many real callers.
const maxApps = 10_000

// limits counts what is in flight and how fast it comes.
type limits struct {
	maxNode, maxApp       int64
	appMessages, appBytes int64
	m                     *metrics
	node                  atomic.Int64

	mu   sync.RWMutex // guards apps
	apps map[string]*appUse
}

// appUse is one app's share.
type appUse struct {
	bytes atomic.Int64
	rates *rates // nil: no limit
}

func (l *limits) init(cfg Config, m *metrics) {
	l.maxNode, l.maxApp = cfg.MaxInFlightBytes, cfg.MaxAppInFlightBytes
	l.appMessages, l.appBytes = cfg.AppRateMessages, cfg.AppRateBytes
	l.m = m
	l.apps = map[string]*appUse{}
}

// take reserves n bytes for the app, or says why not; nothing queues.
func (l *limits) take(app string, n int64) (*appUse, *fault.Error) {
	u := l.app(app)
	if u == nil {
		return nil, slowDown(time.Second, "the node serves %d apps at once, its limit; try another node", maxApps)
	}
	if use := u.bytes.Add(n); use > l.maxApp {
		u.bytes.Add(-n)
		return nil, slowDown(100*time.Millisecond, "app %q has %d bytes in flight at this node, its limit is %d; wait for answers before sending more", app, use-n, l.maxApp)
	}
	if use := l.node.Add(n); use > l.maxNode {
		l.node.Add(-n)
		u.bytes.Add(-n)
		return nil, slowDown(200*time.Millisecond, "the node has %d bytes in flight, its limit is %d; wait, or use another node", use-n, l.maxNode)
	}
	l.m.inFlightBytes.Add(float64(n))
	return u, nil
}

// give returns what take reserved.
func (l *limits) give(u *appUse, n int64) {
	u.bytes.Add(-n)
	l.node.Add(-n)
	l.m.inFlightBytes.Sub(float64(n))
}

// app finds or makes an app's entry; nil where the table is full of busy ones.
func (l *limits) app(name string) *appUse {
	l.mu.RLock()
	u := l.apps[name]
	l.mu.RUnlock()
	if u != nil {
		return u
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.apps[name]; u != nil {
		return u
	}
	if len(l.apps) >= maxApps {
		// A batch that holds an entry which is evicted under it gives back to an entry that nobody
		// sees any more; the node's count, which bounds memory, is right all the same.
		for other, u := range l.apps {
			if u.bytes.Load() == 0 {
				delete(l.apps, other)
			}
		}
		if len(l.apps) >= maxApps {
			return nil
		}
	}
	u = &appUse{rates: newRates(l.appMessages, l.appBytes)}
	l.apps[name] = u
	return u
}

// rates limits messages and bytes a second.
type rates struct {
	messages, bytes *rate.Limiter // nil: no limit
}

// newRates gives nil where neither is limited. The burst is a second's worth,
// but never less than the largest request, which could else never pass.
func newRates(messages, bytes int64) *rates {
	if messages <= 0 && bytes <= 0 {
		return nil
	}
	r := &rates{}
	if messages > 0 {
		r.messages = rate.NewLimiter(rate.Limit(messages), int(max(messages, MaxMessages)))
	}
	if bytes > 0 {
		r.bytes = rate.NewLimiter(rate.Limit(bytes), int(max(bytes, 2*MaxRequestBytes)))
	}
	return r
}

// topicRates makes the limiter of a topic's settings.
func topicRates(t *snapshot.Topic) *rates { return newRates(t.RateMessages, t.RateBytes) }

// take asks for a whole request: all of it now, or none and how long to wait.
func (r *rates) take(now time.Time, messages int, bytes int64) (wait time.Duration, ok bool) {
	if r == nil {
		return 0, true
	}
	var m *rate.Reservation
	if r.messages != nil {
		m = r.messages.ReserveN(now, messages)
		if wait = m.DelayFrom(now); wait > 0 {
			m.CancelAt(now)
			return wait, false
		}
	}
	if r.bytes != nil {
		b := r.bytes.ReserveN(now, int(bytes))
		if wait = b.DelayFrom(now); wait > 0 {
			b.CancelAt(now)
			if m != nil {
				m.CancelAt(now)
			}
			return wait, false
		}
	}
	return 0, true
}

func slowDown(wait time.Duration, format string, args ...any) *fault.Error {
	f := fault.New(fault.SlowDown, format, args...)
	f.RetryAfter = max(wait, 10*time.Millisecond).Round(time.Millisecond)
	return f
}
