package consume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	joinBackMin   = 200 * time.Millisecond
	joinBackMax   = 10 * time.Second
	committedWait = 15 * time.Second // for positions of new partitions
	leaveWait     = 5 * time.Second
	// rejoinAfter: a lane that ended although its partition is still ours makes the membership start anew.
	rejoinAfter = 15 * time.Second
	// rebalanceSlack is what committing takes beyond the drain.
	rebalanceSlack = 15 * time.Second
)

var errRejoin = errors.New("a lane ended although its partition is still assigned")

// member is this node's membership in a group on one cluster.
type member struct {
	e       *Engine
	g       *group
	cluster string
	topics  map[mq.Topic]string // physical to logical
	spec    atomic.Pointer[spec]
	leaving context.Context // ends when it should leave
	leave   context.CancelFunc
	done    chan struct{} // closed when it has left
	pokes   chan struct{} // one token: something is to be committed
	commits chan struct{} // one token: held while a commit is under way

	epoch     atomic.Int64                            // of the newest assignment
	mapsOff   atomic.Bool                             // the broker takes no maps of that size
	stale     atomic.Bool                             // a lane ended by itself
	interrupt atomic.Pointer[context.CancelCauseFunc] // of the running Next

	// Set by serve before any lane starts.
	driver  mq.Driver
	caps    mq.Caps
	retries bool // the retry topic is there
	ids     map[mq.Topic]string

	owned map[mq.PartitionID]*partition // run's own
	work  sync.WaitGroup                // lanes and the committing goroutine
}

func newMember(g *group, cluster string, topics map[mq.Topic]string, sp *spec) *member {
	m := &member{
		e: g.e, g: g, cluster: cluster, topics: topics, done: make(chan struct{}),
		pokes: make(chan struct{}, 1), commits: make(chan struct{}, 1), owned: make(map[mq.PartitionID]*partition),
	}
	m.leaving, m.leave = context.WithCancel(g.e.ctx)
	m.spec.Store(sp)
	return m
}

// run joins, and joins again after a failure, until it is told to leave.
func (m *member) run() {
	defer close(m.done)
	defer m.leave()
	for tries := 0; ; tries++ {
		joined, err := m.serve()
		if m.leaving.Err() != nil {
			return
		}
		m.e.m.joins.WithLabelValues(mq.ClassOf(err).Error()).Inc()
		if joined {
			tries = 0
		}
		m.e.log.Warn("membership ended; joining again", "group", m.g.name, "cluster", m.cluster, "attempt", tries+1, "err", err)
		if f := hopeless(m.g.name, m.cluster, err); f != nil {
			m.g.fail(f)
		}
		if !pause(m.leaving, min(joinBackMin<<min(tries, 8), joinBackMax)) {
			return
		}
	}
}

// hopeless names failures that clients should know of, since waiting does not help.
func hopeless(group, cluster string, err error) *fault.Error {
	text := strings.ToLower(err.Error())
	switch {
	case errors.Is(err, mq.Invalid) && (strings.Contains(text, "assignor") || strings.Contains(text, "protocol")):
		return fault.Wrap(err, fault.IncompatibleGroup, "group %q on cluster %s has native members that cannot share it: %v; give them one of Sluice's assignment strategies, or another group", group, cluster, err)
	case errors.Is(err, mq.Auth):
		return fault.Wrap(err, fault.ClusterAuth, "cluster %s does not let Sluice join group %q; give its user the right to read the group and its topics", cluster, group)
	default:
		return nil
	}
}

// serve is one membership from joining to its end. joined tells whether it got as far as an assignment.
func (m *member) serve() (joined bool, err error) {
	cfg, err := m.prepare()
	if err != nil {
		return false, err
	}
	gr, err := m.driver.Group(m.leaving, cfg)
	if err != nil {
		return false, err
	}
	ctx, stop := context.WithCancel(m.e.ctx)
	m.work.Go(func() { m.commitLoop(ctx, gr) })
	defer func() {
		if m.leaving.Err() != nil && m.e.ctx.Err() == nil {
			m.handOver(gr, slices.Collect(maps.Values(m.owned)))
		}
		m.lose(slices.Collect(maps.Keys(m.owned)))
		stop()
		m.work.Wait()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
		defer cancel()
		if cerr := gr.Close(end); cerr != nil {
			m.e.log.Warn("leaving the group failed; its session ends by itself", "group", m.g.name, "cluster", m.cluster, "err", cerr)
		}
	}()
	for {
		a, err := m.next(gr)
		if err != nil {
			return joined, err
		}
		if err := m.assigned(gr, a); err != nil {
			return joined, err
		}
		if !joined {
			joined = true
			m.e.m.joins.WithLabelValues("joined").Inc()
			m.g.fail(nil)
		}
	}
}

// prepare asks the cluster what it can do and what there is.
func (m *member) prepare() (mq.GroupConfig, error) {
	ctx, cancel := context.WithTimeout(m.leaving, committedWait)
	defer cancel()
	driver, err := m.e.clusters.Driver(m.cluster)
	if err != nil {
		return mq.GroupConfig{}, err
	}
	m.driver = driver
	if m.caps, err = driver.Caps(ctx); err != nil {
		return mq.GroupConfig{}, err
	}
	sp := m.spec.Load()
	cfg := mq.GroupConfig{
		Group: m.g.name, Member: "sluice-" + m.e.node, Start: make(map[mq.Topic]mq.Start),
		SessionTimeout: m.e.cfg.SessionTimeout, RebalanceTimeout: max(30*time.Second, m.drain()+rebalanceSlack),
	}
	for t, logical := range m.topics {
		cfg.Topics = append(cfg.Topics, t)
		if cfg.Start[t], err = startOf(sp.settings[logical].Start); err != nil {
			return cfg, err
		}
	}
	retry := mq.RetryTopic(m.g.name)
	_, err = driver.Producer().Partitions(ctx, retry)
	switch {
	case err == nil:
		cfg.Topics = append(cfg.Topics, retry)
	case !errors.Is(err, mq.NotFound):
		return cfg, err
	default:
		m.e.log.Warn("the group has no retry topic on this cluster; long delays wait in memory", "group", m.g.name, "cluster", m.cluster, "topic", string(retry))
	}
	m.retries = err == nil
	slices.Sort(cfg.Topics)
	m.ids = m.topicIDs(ctx, cfg.Topics)
	return cfg, nil
}

// topicIDs tell topics apart from those of the same name before; without them maps hold for any topic of the name.
func (m *member) topicIDs(ctx context.Context, topics []mq.Topic) map[mq.Topic]string {
	ids := make(map[mq.Topic]string, len(topics))
	details, err := m.driver.Admin().Topics(ctx, topics...)
	if err != nil {
		m.e.log.Debug("topic ids are not known", "group", m.g.name, "cluster", m.cluster, "err", err)
	}
	for _, d := range details {
		ids[d.Name] = d.ID
	}
	return ids
}

func startOf(s string) (mq.Start, error) {
	switch s {
	case "", "earliest":
		return mq.Start{At: mq.Earliest}, nil
	case "latest":
		return mq.Start{At: mq.Latest}, nil
	default:
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return mq.Start{}, fmt.Errorf("start position %q: %w", s, err)
		}
		return mq.Start{At: mq.AtTime, Time: at}, nil
	}
}

// next waits for an assignment. It fails where a lane ended over a partition that is still ours.
func (m *member) next(gr mq.Group) (mq.Assignment, error) {
	for {
		ctx, cancel := context.WithCancelCause(m.leaving)
		m.interrupt.Store(&cancel)
		if m.stale.Swap(false) {
			cancel(errRejoin)
		}
		a, err := gr.Next(ctx)
		cause := context.Cause(ctx)
		cancel(nil)
		if err == nil || !errors.Is(cause, errRejoin) {
			return a, err
		}
		for _, p := range m.owned {
			if p.ended() {
				return a, errRejoin
			}
		}
	}
}

// rejoinSoon makes the membership start anew unless the assignment turns out to be lost by then.
func (m *member) rejoinSoon() {
	time.AfterFunc(rejoinAfter, func() {
		m.stale.Store(true)
		if cancel := m.interrupt.Load(); cancel != nil {
			(*cancel)(errRejoin)
		}
	})
}

// assigned works on a change: what is lost, then what is to be given up, then what is new.
func (m *member) assigned(gr mq.Group, a mq.Assignment) error {
	m.epoch.Store(a.Epoch)
	m.lose(a.Lost)
	var giving []*partition
	for _, id := range a.Revoked {
		if p := m.owned[id]; p != nil {
			giving = append(giving, p)
		}
	}
	m.handOver(gr, giving)
	if len(a.Revoked) > 0 {
		gr.Done(a.Epoch)
	}
	if len(a.Added) == 0 {
		return nil
	}
	positions, err := m.positions(gr, a.Added)
	if err != nil {
		return err
	}
	for _, id := range a.Added {
		m.start(gr, id, a.Epoch, positions[id])
	}
	return nil
}

// positions reads where the new partitions stand, trying again for a while.
func (m *member) positions(gr mq.Group, ids []mq.PartitionID) (map[mq.PartitionID]mq.Commit, error) {
	ctx, cancel := context.WithTimeout(m.leaving, committedWait)
	defer cancel()
	for tries := 0; ; tries++ {
		cs, err := gr.Committed(ctx, ids)
		if err == nil || !mq.ClassOf(err).Retriable() {
			return cs, err
		}
		if !pause(ctx, min(joinBackMin<<min(tries, 4), joinBackMax)) {
			return nil, err
		}
	}
}

// start makes a lane and lets it run.
func (m *member) start(gr mq.Group, id mq.PartitionID, epoch int64, c mq.Commit) {
	if old := m.owned[id]; old != nil { // lost and given again in one step
		m.lose([]mq.PartitionID{id})
	}
	sp := m.spec.Load()
	p := &partition{
		e: m.e, g: m.g, m: m, id: id, name: id.String(), epoch: epoch, topicID: m.ids[id.Topic], from: gr,
		retry: id.Topic == mq.RetryTopic(m.g.name), topic: m.topics[id.Topic], runBase: randomUint64() &^ (1<<32 - 1),
		calls: make(chan call), fetched: make(chan fetched), wants: make(chan want, 1), dead: make(chan struct{}), drained: make(chan struct{}),
		committed: c.Offset,
	}
	p.bit = max(0, slices.Index(sp.topics, p.topic))
	p.ctx, p.stop = context.WithCancel(m.e.ctx)
	carried, ok := ackmap.Decode(c.Map, p.topicID, c.Offset)
	p.in = intake{at: c.Offset, size: max(m.e.cfg.LaneMinBytes, 256<<10)}
	p.l = lane.New(p.laneConfig(sp), c.Offset, carried, randomUint64())
	p.configure(sp)
	how := "unclean"
	if ok && carried.Clean {
		how = "clean"
	}
	m.e.m.takeovers.WithLabelValues(how).Inc()
	if !p.retry && sp.settings[p.topic].Takeover == "wait_lease" {
		if carried.Clean {
			p.holdUntilCommit()
		} else {
			p.l.Hold(m.e.clock() + DefaultLease)
		}
	}
	m.e.budget.lanes.Add(1)
	m.e.m.lanes.Inc()
	m.e.remember(p)
	m.g.hub.add(p)
	m.owned[id] = p
	m.work.Go(p.run)
	m.e.log.Info("partition taken over", p.attrs("offset", c.Offset, "how", how)...)
}

// holdUntilCommit: the commit that we found says "handed over in order". Until ours has replaced it nothing may go
// out, or an owner after a crash of this one would believe it.
func (p *partition) holdUntilCommit() {
	p.hold = true
	p.l.Hold(1<<63 - 1)
	p.dirty.Store(true)
	p.m.poke()
}

// configure applies changed settings to all lanes. Nothing is dropped.
func (m *member) configure(sp *spec) {
	m.spec.Store(sp)
	for _, p := range m.g.hub.all() {
		if p.m == m {
			p.call(func() { p.configure(sp) })
		}
	}
}

// drain is how long lanes wait for their leases when they move: the longest of the topics.
func (m *member) drain() time.Duration {
	var d time.Duration
	sp := m.spec.Load()
	for _, t := range m.topics {
		d = max(d, sp.settings[t].WithDefaults().Drain)
	}
	return d
}

// handOver ends lanes in order: nothing more is leased, open leases get a short time, the rest is committed.
func (m *member) handOver(gr mq.Group, ps []*partition) {
	if len(ps) == 0 {
		return
	}
	for _, p := range ps {
		p.call(p.stopLeasing)
	}
	timer := time.NewTimer(m.drain())
	defer timer.Stop()
	for _, p := range ps {
		select {
		case <-p.drained:
			continue
		case <-p.dead:
			continue
		case <-m.e.ctx.Done():
		case <-timer.C:
			timer.Reset(0) // the time is up for the others too
		}
	}
	m.commitFinal(gr, ps)
	for _, p := range ps {
		p.stop()
		<-p.dead
		delete(m.owned, p.id)
		m.e.log.Info("partition handed over", p.attrs()...)
	}
}

// stopLeasing begins the end of a lane; in its goroutine.
func (p *partition) stopLeasing() {
	p.stopped = true
	p.closing.Store(true)
	p.l.Stop()
}

// lose drops lanes whose partitions are somebody else's already.
func (m *member) lose(ids []mq.PartitionID) {
	for _, id := range ids {
		p := m.owned[id]
		if p == nil {
			continue
		}
		p.stop()
		<-p.dead
		delete(m.owned, id)
		m.e.log.Warn("partition lost", p.attrs()...)
	}
}

func (m *member) parkAfter() time.Duration {
	if !m.retries || !m.caps.Headers {
		return 0
	}
	return m.e.cfg.ParkAfter
}

func (p *partition) key() laneKey { return laneKey{group: p.g.name, cluster: p.m.cluster, id: p.id} }

func (p *partition) ended() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}
