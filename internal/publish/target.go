package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// How old what is known of a topic may get. Partitions come from the driver's
// own cache, so asking often is cheap; limits cost a request to the cluster.
const (
	partitionsAge = 2 * time.Second
	limitAge      = 30 * time.Second
	failureAge    = 500 * time.Millisecond // an unreachable cluster is not asked for every batch
	loadTimeout   = 5 * time.Second
)

// targets holds what is known of the topics that were published to, at most one
// entry for each topic of the snapshot.
type targets struct {
	e  *Engine
	mu sync.RWMutex           // guards by
	by map[string]*topicEntry // by logical name
}

// topicEntry is a topic of the snapshot, resolved. It is immutable.
type topicEntry struct {
	from   *snapshot.Topic // the entry is good for exactly this version
	target *target
	rates  *rates
	block  int
	m      *topicMetrics
}

// find resolves a topic; nil without an error: the snapshot has no such topic.
func (ts *targets) find(topic string) (*topicEntry, *fault.Error) {
	snap := ts.e.snapshot.Current()
	from := snap.Topics[topic]
	if from == nil {
		return nil, nil
	}
	ts.mu.RLock()
	entry := ts.by[topic]
	ts.mu.RUnlock()
	if entry != nil && entry.from == from {
		return entry, nil
	}
	if len(from.Homes) == 0 {
		return nil, fault.New(fault.Unavailable, "topic %s has no home cluster; an operator must set its route", topic)
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	old := ts.by[topic]
	if old != nil && old.from == from {
		return old, nil
	}
	entry = ts.resolve(from, old)
	if ts.by == nil {
		ts.by = map[string]*topicEntry{}
	}
	ts.prune(snap)
	ts.by[topic] = entry
	return entry, nil
}

// resolve makes a topic's entry and keeps of the old one what still holds, so
// that a change of limits forgets neither the partitions nor the rate used.
func (ts *targets) resolve(from *snapshot.Topic, old *topicEntry) *topicEntry {
	home := from.Homes[0] // one, until routes come
	entry := &topicEntry{from: from, block: max(from.Block, 1)}
	if from.Block == 0 {
		entry.block = defaultBlock
	}
	if old != nil {
		entry.m = old.m
		if t := old.target; t.cluster == home.Cluster && t.topic == home.Topic && t.pinned == home.Partitions {
			entry.target = t
		}
		if old.from.RateMessages == from.RateMessages && old.from.RateBytes == from.RateBytes {
			entry.rates = old.rates
		}
	}
	if entry.m == nil {
		entry.m = ts.e.m.topic(from.Name)
	}
	if entry.target == nil {
		entry.target = &target{e: ts.e, cluster: home.Cluster, topic: home.Topic, pinned: home.Partitions}
	}
	if entry.rates == nil {
		entry.rates = topicRates(from)
	}
	return entry
}

// defaultBlock is B where the route does not say.
const defaultBlock = 8

// prune forgets topics that are gone. Called with mu held.
func (ts *targets) prune(snap *snapshot.Snapshot) {
	if len(ts.by) < 2*len(snap.Topics)+16 {
		return
	}
	for name := range ts.by {
		if snap.Topics[name] == nil {
			delete(ts.by, name)
		}
	}
}

// target is one physical topic on one cluster.
type target struct {
	e       *Engine
	cluster string
	topic   mq.Topic
	pinned  int

	state      atomic.Pointer[targetState]
	refreshing atomic.Bool

	mu      sync.Mutex // guards loading, failed, failedAt
	loading chan struct{}
	failed  *fault.Error // why the last load failed
	at      time.Time    // when it did
}

// targetState is what is known of a target. It is immutable.
type targetState struct {
	t        *target
	driver   mq.Driver
	producer mq.Producer
	caps     mq.Caps
	limit    int // most bytes of a message
	layout   *layout
	seen     time.Time // when the partitions were asked for
	limitAt  time.Time
}

// get gives what is known and refreshes it in the background when it is old.
// Where nothing is known yet, or the cluster has another driver by now, it waits
// for the first answer until either context ends.
func (t *target) get(caller, deadline context.Context) (*targetState, *fault.Error) {
	driver, err := t.e.clusters.Driver(t.cluster)
	if err != nil {
		return nil, routeFault(err, t.cluster, t.topic)
	}
	if s := t.state.Load(); s != nil && s.driver == driver {
		if t.e.now().Sub(s.seen) > partitionsAge {
			t.refresh()
		}
		return s, nil
	}
	loaded, f := t.load(driver)
	if f != nil {
		return nil, f
	}
	select {
	case <-loaded:
	case <-caller.Done():
		return nil, fault.New(fault.Cancelled, "the caller went away while cluster %s was asked about topic %s", t.cluster, t.topic)
	case <-deadline.Done():
		return nil, fault.New(fault.DeadlineExceeded, "cluster %s did not tell the partitions of topic %s in time", t.cluster, t.topic)
	}
	if s := t.state.Load(); s != nil && s.driver == driver {
		return s, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed != nil {
		return nil, t.failed
	}
	return nil, fault.New(fault.Unavailable, "cluster %s was changed at this moment; try again", t.cluster)
}

// load starts asking the cluster, or joins who asks already; a failure just
// now is answered at once.
func (t *target) load(driver mq.Driver) (<-chan struct{}, *fault.Error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.loading != nil {
		return t.loading, nil
	}
	if t.failed != nil && t.e.now().Sub(t.at) < failureAge {
		return nil, t.failed
	}
	loaded := make(chan struct{})
	if !t.e.spawn(func() {
		err := t.ask(driver, nil)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.failed, t.at, t.loading = nil, t.e.now(), nil
		if err != nil {
			t.failed = routeFault(err, t.cluster, t.topic)
		}
		close(loaded)
	}) {
		return nil, fault.New(fault.GoAway, "the node is stopping; publish through another one")
	}
	t.loading = loaded
	return loaded, nil
}

// refresh asks again in the background; what is known stays good until the answer.
func (t *target) refresh() {
	if !t.refreshing.CompareAndSwap(false, true) {
		return
	}
	if !t.e.spawn(func() {
		defer t.refreshing.Store(false)
		old := t.state.Load()
		driver, err := t.e.clusters.Driver(t.cluster)
		if err == nil {
			err = t.ask(driver, old)
		}
		if err != nil {
			t.e.m.refreshFailures.Inc()
			// Not every batch may start a refresh of a cluster that does not answer.
			later := *old
			later.seen = t.e.now().Add(failureAge - partitionsAge)
			t.state.CompareAndSwap(old, &later)
		}
	}) {
		t.refreshing.Store(false)
	}
}

// ask asks the cluster and keeps the answer. Limits are asked for less often.
func (t *target) ask(driver mq.Driver, old *targetState) error {
	ctx, cancel := context.WithTimeout(t.e.ctx, loadTimeout)
	defer cancel()
	if old != nil && old.driver != driver {
		old = nil
	}
	now := t.e.now()
	s := &targetState{t: t, driver: driver, producer: driver.Producer(), seen: now}
	parts, err := s.producer.Partitions(ctx, t.topic)
	if err != nil {
		return fmt.Errorf("partitions of %s on %s: %w", t.topic, t.cluster, err)
	}
	s.layout = newLayout(parts, t.pinned)
	if old != nil && now.Sub(old.limitAt) < limitAge {
		s.caps, s.limit, s.limitAt = old.caps, old.limit, old.limitAt
	} else if err := s.askLimit(ctx, now); err != nil {
		if old == nil {
			return err
		}
		s.caps, s.limit, s.limitAt = old.caps, old.limit, old.limitAt
	}
	t.state.Store(s)
	return nil
}

// askLimit reads the capabilities and the topic's own size limit. A cluster that
// keeps its configuration to itself (rights, version) is taken at its default.
func (s *targetState) askLimit(ctx context.Context, now time.Time) error {
	caps, err := s.driver.Caps(ctx)
	if err != nil {
		return fmt.Errorf("capabilities of %s: %w", s.t.cluster, err)
	}
	s.caps, s.limitAt = caps, now
	most := caps.MaxRecordBytes
	details, err := s.driver.Admin().Topics(ctx, s.t.topic)
	switch {
	case err == nil && len(details) == 1 && details[0].MaxMessageBytes > 0:
		most = details[0].MaxMessageBytes
	case err != nil && !errors.Is(err, mq.Auth) && !errors.Is(err, mq.Unsupported):
		// It may pass: ask again with the next refresh but one.
		s.limitAt = now.Add(2*partitionsAge - limitAge)
	}
	if most <= 0 {
		most = unknownTopicLimit
	}
	s.limit = min(MaxMessageBytes, most-brokerOverhead)
	return nil
}

// spawn runs f in a goroutine that Drain waits for; false once the engine is through.
func (e *Engine) spawn(f func()) bool {
	e.spawnMu.Lock()
	defer e.spawnMu.Unlock()
	if e.ctx.Err() != nil {
		return false
	}
	e.wg.Go(f)
	return true
}
