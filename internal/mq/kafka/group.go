package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	defaultSession   = 6 * time.Second
	defaultRebalance = 30 * time.Second
	heartbeat        = time.Second
)

// group is one membership. kgo's client of the group joins, heartbeats and balances; its fetching is paused
// for good, since partitions are read by our own fetcher through the same client.
type group struct {
	d   *Driver
	cfg mq.GroupConfig
	cl  *kgo.Client
	f   *fetcher
	// counts are the topics' partition counts at joining: what comes later is a new partition.
	counts map[mq.Topic]int

	news chan struct{} // capacity 1: changes or err were set
	gone chan struct{} // closed when Close begins

	mu      sync.Mutex // guards the rest; held for the decision whether a commit may be sent, not for the sending
	epoch   int64
	owned   map[mq.PartitionID]*ownership
	changes []mq.Assignment
	drain   *drain // the revocation that waits for Done
	err     *mq.Error
	joined  bool
	closing bool
}

// ownership is a partition that this member has.
type ownership struct {
	since   int64         // the epoch it came with
	commits int           // requests in flight
	quiet   chan struct{} // made by who waits for commits to be 0
}

type drain struct {
	epoch int64
	done  chan struct{}
}

// Group implements mq.Driver. Topics have to exist; a group whose members cannot be shared is refused by name.
func (d *Driver) Group(ctx context.Context, cfg mq.GroupConfig) (mq.Group, error) {
	if d.isClosed() {
		return nil, errClosed()
	}
	if cfg.Group == "" || len(cfg.Topics) == 0 {
		return nil, mq.Errorf(mq.Invalid, "a group needs a name and at least one topic")
	}
	if cfg.SessionTimeout == 0 {
		cfg.SessionTimeout = defaultSession
	}
	if cfg.RebalanceTimeout == 0 {
		cfg.RebalanceTimeout = defaultRebalance
	}
	if _, err := d.Caps(ctx); err != nil {
		return nil, err
	}
	g := &group{d: d, cfg: cfg, news: make(chan struct{}, 1), gone: make(chan struct{}), owned: map[mq.PartitionID]*ownership{}, counts: map[mq.Topic]int{}}
	topics := make([]string, len(cfg.Topics))
	for i, t := range cfg.Topics {
		topics[i] = string(t)
		tm, err := d.meta.get(ctx, t, metaStale)
		if err != nil {
			return nil, err
		}
		g.counts[t] = len(tm.partitions)
	}
	if err := d.shareable(ctx, cfg.Group); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed()
	}
	if err := g.join(topics); err != nil {
		return nil, &mq.Error{Class: mq.Invalid, Msg: "group " + cfg.Group, Cause: err}
	}
	d.groups[g] = struct{}{}
	return g, nil
}

func (g *group) join(topics []string) error {
	member := g.cfg.Member
	if member == "" {
		member = g.d.cfg.ClientID
	}
	ready := make(chan struct{}) // callbacks wait until the fields below are set
	defer close(ready)
	on := func(f func(map[string][]int32)) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, m map[string][]int32) { <-ready; f(m) }
	}
	cl, err := g.d.client(g.d.cfg.RequestOverhead+g.d.cfg.ProduceTimeout,
		kgo.ClientID(member),
		kgo.ConsumerGroup(g.cfg.Group),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(balancers()...),
		kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(g.cfg.SessionTimeout),
		kgo.RebalanceTimeout(max(g.cfg.RebalanceTimeout, g.cfg.SessionTimeout)),
		// A change of partition counts is seen by the fetching, too, within metaFresh; this is for a member that fetches nothing.
		kgo.MetadataMaxAge(30*time.Second),
		kgo.HeartbeatInterval(min(heartbeat, g.cfg.SessionTimeout/3)),
		kgo.OnPartitionsAssigned(on(g.assigned)),
		kgo.OnPartitionsRevoked(on(g.revoked)),
		kgo.OnPartitionsLost(on(g.lost)),
		kgo.WithHooks(groupHook{g: g, ready: ready}),
	)
	if err != nil {
		return err
	}
	cl.PauseFetchTopics(topics...)
	g.cl = cl
	g.f = newFetcher(g.d, cl)
	return nil
}

func partitionsOf(m map[string][]int32) []mq.PartitionID {
	var ps []mq.PartitionID
	for t, is := range m {
		for _, i := range is {
			ps = append(ps, mq.PartitionID{Topic: mq.Topic(t), Index: i})
		}
	}
	sortPartitions(ps)
	return ps
}

// ownedList needs g.mu.
func (g *group) ownedList() []mq.PartitionID {
	ps := make([]mq.PartitionID, 0, len(g.owned))
	for p := range g.owned {
		ps = append(ps, p)
	}
	sortPartitions(ps)
	return ps
}

// assigned is called by kgo, as are revoked and lost, by one goroutine at a time.
func (g *group) assigned(m map[string][]int32) {
	added := partitionsOf(m)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.joined && len(added) == 0 {
		return
	}
	g.joined = true
	g.epoch++
	for _, p := range added {
		g.owned[p] = &ownership{since: g.epoch}
	}
	g.d.m.rebalances.WithLabelValues("added").Add(float64(len(added)))
	g.tell(mq.Assignment{Epoch: g.epoch, Owned: g.ownedList(), Added: added})
}

// revoked holds the rebalance up until the partitions are drained; heartbeats go on meanwhile.
func (g *group) revoked(m map[string][]int32) {
	ps := partitionsOf(m)
	g.mu.Lock()
	ps = slices.DeleteFunc(ps, func(p mq.PartitionID) bool { return g.owned[p] == nil })
	if len(ps) == 0 {
		g.mu.Unlock()
		return
	}
	g.epoch++
	g.d.m.rebalances.WithLabelValues("revoked").Add(float64(len(ps)))
	dr := &drain{epoch: g.epoch, done: make(chan struct{})}
	if !g.closing {
		g.drain = dr
		g.tell(mq.Assignment{Epoch: g.epoch, Owned: g.ownedList(), Revoked: ps})
	}
	closing := g.closing
	g.mu.Unlock()

	if !closing {
		timer := time.NewTimer(g.cfg.RebalanceTimeout)
		defer timer.Stop()
		select {
		case <-dr.done:
		case <-g.gone:
		case <-timer.C:
			g.d.m.drainOverruns.Inc()
			g.d.log.Warn("partitions are handed over before they were drained", "group", g.cfg.Group, "epoch", dr.epoch, "took", g.cfg.RebalanceTimeout)
		}
	}
	g.disown(ps)
}

// disown ends the ownership and waits for commits that were sent under it: from its return on, no commit of these
// partitions leaves this member.
func (g *group) disown(ps []mq.PartitionID) {
	g.mu.Lock()
	g.drain = nil
	var wait []chan struct{}
	for _, p := range ps {
		o := g.owned[p]
		if o == nil {
			continue
		}
		delete(g.owned, p)
		if o.commits > 0 {
			o.quiet = make(chan struct{})
			wait = append(wait, o.quiet)
		}
	}
	g.mu.Unlock()
	g.f.drop(ps)
	for _, quiet := range wait {
		<-quiet // requests are bounded by AdminTimeout
	}
}

func (g *group) lost(m map[string][]int32) {
	ps := partitionsOf(m)
	g.mu.Lock()
	ps = slices.DeleteFunc(ps, func(p mq.PartitionID) bool { return g.owned[p] == nil })
	for _, p := range ps {
		delete(g.owned, p)
	}
	if len(ps) > 0 {
		g.epoch++
		g.d.m.rebalances.WithLabelValues("lost").Add(float64(len(ps)))
		g.tell(mq.Assignment{Epoch: g.epoch, Owned: g.ownedList(), Lost: ps})
	}
	g.mu.Unlock()
	g.f.drop(ps)
}

// tell needs g.mu.
func (g *group) tell(a mq.Assignment) {
	g.changes = append(g.changes, a)
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// fail ends the membership for Next.
func (g *group) fail(err *mq.Error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// Next implements mq.Group.
func (g *group) Next(ctx context.Context) (mq.Assignment, error) {
	for {
		g.mu.Lock()
		if len(g.changes) > 0 {
			a := g.changes[0]
			g.changes = g.changes[1:]
			g.mu.Unlock()
			return a, nil
		}
		err, closing := g.err, g.closing
		g.mu.Unlock()
		if closing {
			return mq.Assignment{}, g.errClosed()
		}
		if err != nil {
			return mq.Assignment{}, err
		}
		select {
		case <-g.news:
		case <-g.gone:
		case <-ctx.Done():
			return mq.Assignment{}, &mq.Error{Class: mq.Timeout, Msg: "group " + g.cfg.Group + ": no change", Cause: ctx.Err()}
		}
	}
}

func (g *group) errClosed() *mq.Error {
	return mq.Errorf(mq.Closed, "group %s: the membership was closed", g.cfg.Group)
}

// Done implements mq.Group.
func (g *group) Done(epoch int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drain != nil && g.drain.epoch == epoch {
		close(g.drain.done)
		g.drain = nil
	}
}

// Fetch implements mq.Group. A batch that cannot be read (damaged, or larger than Config.MaxBatch when
// decompressed) is an error of class Invalid or TooLarge whose cause has Range() (from, next int64).
func (g *group) Fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	g.mu.Lock()
	owned, closing := g.owned[p] != nil, g.closing
	g.mu.Unlock()
	if closing {
		return mq.Batch{}, g.errClosed()
	}
	if !owned {
		return mq.Batch{}, mq.Errorf(mq.Fenced, "group %s: partition %s of topic %s is not owned", g.cfg.Group, p, p.Topic)
	}
	return g.f.fetch(ctx, p, offset, l)
}

// Close implements mq.Group. Revocations are not waited for any more.
func (g *group) Close(ctx context.Context) error {
	g.mu.Lock()
	if g.closing {
		g.mu.Unlock()
		return nil
	}
	g.closing = true
	close(g.gone)
	g.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, g.d.cfg.AdminTimeout)
	defer cancel()
	g.f.close()
	err := g.cl.LeaveGroupContext(ctx)
	g.cl.CloseAllowingRebalance()
	g.mu.Lock()
	clear(g.owned)
	g.mu.Unlock()
	g.d.mu.Lock()
	delete(g.d.groups, g)
	g.d.mu.Unlock()
	if err != nil {
		return wrapf(transportError(err), "leave group %s (the broker gives its partitions away after the session time-out)", g.cfg.Group)
	}
	return nil
}
