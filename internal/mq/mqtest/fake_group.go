package mqtest

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/roster"
)

// fakeGroup is a consumer group: its positions, and who shares it out: the roster, or by hand the test.
type fakeGroup struct {
	name    string
	commits map[mq.PartitionID]mq.Commit
	roster  *roster.Roster
	hands   *hands // nil: the roster shares
	members []*fakeMember
}

// sharing is what memberships need of a coordinator; roster.Roster and hands are two.
type sharing interface {
	Next(roster.Member, time.Time) (mq.Assignment, bool)
	Done(roster.Member, int64)
	Expire(time.Time) bool
	Deadline() (time.Time, bool)
	Owns(roster.Member, mq.PartitionID, int64) bool
	Holds(roster.Member, mq.PartitionID) bool
	Owned(roster.Member) []mq.PartitionID
}

func (g *fakeGroup) sharing() sharing {
	if g.hands != nil {
		return g.hands
	}
	return g.roster
}

// fakeMember is one membership.
type fakeMember struct {
	f     *Fake
	group *fakeGroup
	id    roster.Member
	cfg   mq.GroupConfig
	left  chan struct{} // closed by Close
	// Guarded by f.mu.
	gone bool
	err  error // scripted end of the membership
}

var _ mq.Group = (*fakeMember)(nil)

// group finds or makes a group. The caller holds mu.
func (f *Fake) group(name string) *fakeGroup {
	g := f.groups[name]
	if g == nil {
		g = &fakeGroup{name: name, commits: make(map[mq.PartitionID]mq.Commit), roster: roster.New(0)}
		f.groups[name] = g
	}
	return g
}

// shareTopic tells every group which partitions a topic has now. The caller holds mu.
func (f *Fake) shareTopic(topic mq.Topic) {
	for _, g := range f.groups {
		g.roster.SetPartitions(topic, f.ids(topic))
	}
}

// Group implements mq.Driver.
func (f *Fake) Group(ctx context.Context, cfg mq.GroupConfig) (mq.Group, error) {
	if err := f.ready(ctx); err != nil {
		return nil, err
	}
	if cfg.Group == "" {
		return nil, mq.Errorf(mq.Invalid, "a group needs a name")
	}
	if hook := f.script().join; hook != nil {
		if err := hook(cfg); err != nil {
			return nil, err
		}
	}
	if cfg.RebalanceTimeout == 0 {
		cfg.RebalanceTimeout = 30 * time.Second
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.group(cfg.Group)
	m := &fakeMember{f: f, group: g, cfg: cfg, left: make(chan struct{})}
	for _, t := range cfg.Topics {
		g.roster.SetPartitions(t, f.ids(t))
	}
	m.id = g.roster.Join(cfg.Topics, cfg.RebalanceTimeout)
	g.members = append(g.members, m)
	f.notify()
	return m, nil
}

// Next implements mq.Group.
func (m *fakeMember) Next(ctx context.Context) (mq.Assignment, error) {
	for {
		if err := m.ready(ctx); err != nil {
			return mq.Assignment{}, err
		}
		a, ok, changed, wait := m.poll()
		if ok {
			return a, nil
		}
		if err := m.sleep(ctx, changed, wait); err != nil {
			return mq.Assignment{}, err
		}
	}
}

// poll takes the next change, or says what to wait for: a change, or the time (0: none) at which somebody's patience ends.
func (m *fakeMember) poll() (a mq.Assignment, ok bool, changed <-chan struct{}, wait time.Duration) {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	now, s := f.now(), m.group.sharing()
	if s.Expire(now) {
		f.notify()
	}
	if a, ok = s.Next(m.id, now); ok {
		f.notify()
		return a, true, nil, 0
	}
	if at, ok := s.Deadline(); ok {
		wait = max(at.Sub(now), time.Millisecond)
	}
	return a, false, f.changed, wait
}

func (m *fakeMember) sleep(ctx context.Context, changed <-chan struct{}, wait time.Duration) error {
	var expiry <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		expiry = timer.C
	}
	select {
	case <-changed:
	case <-expiry:
	case <-m.left:
	case <-m.f.closing:
	case <-ctx.Done():
	}
	return m.ready(ctx)
}

// ready fails when the membership cannot go on.
func (m *fakeMember) ready(ctx context.Context) error {
	if err := m.f.ready(ctx); err != nil {
		return err
	}
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	return m.alive()
}

// alive is ready without the waits' reasons. The caller holds f.mu.
func (m *fakeMember) alive() error {
	switch {
	case m.gone:
		return mq.Errorf(mq.Closed, "this membership of group %q was closed", m.cfg.Group)
	case m.err != nil:
		return m.err
	default:
		return nil
	}
}

// Done implements mq.Group.
func (m *fakeMember) Done(epoch int64) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	m.group.sharing().Done(m.id, epoch)
	m.f.notify()
}

// Fetch implements mq.Group.
func (m *fakeMember) Fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	return m.f.fetch(ctx, m.cfg.Group, p, offset, l, func() error {
		if err := m.alive(); err != nil {
			return err
		}
		if !m.group.sharing().Holds(m.id, p) {
			return m.fenced(p)
		}
		return nil
	})
}

func (m *fakeMember) fenced(p mq.PartitionID) *mq.Error {
	return mq.Errorf(mq.Fenced, "partition %s of %s is not this member's", p, p.Topic)
}

// Committed implements mq.Group.
func (m *fakeMember) Committed(ctx context.Context, ps []mq.PartitionID) (map[mq.PartitionID]mq.Commit, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[mq.PartitionID]mq.Commit, len(ps))
	for _, id := range ps {
		part, err := f.partition(id)
		if err != nil {
			return nil, err
		}
		if !m.group.sharing().Holds(m.id, id) {
			return nil, m.fenced(id)
		}
		c, ok := m.group.commits[id]
		if !ok {
			if c.Offset, err = f.resolve(part, m.cfg.Start[id.Topic]); err != nil {
				return nil, err
			}
			m.group.commits[id] = c
		}
		out[id] = c
	}
	f.notify()
	return out, nil
}

// Commit implements mq.Group.
func (m *fakeMember) Commit(ctx context.Context, epoch int64, cs map[mq.PartitionID]mq.Commit) map[mq.PartitionID]error {
	failed := make(map[mq.PartitionID]error)
	if err := m.ready(ctx); err != nil {
		for id := range cs {
			failed[id] = err
		}
		return failed
	}
	hook := m.f.script().commit
	for id, c := range cs {
		if hook != nil {
			if err := hook(m.cfg.Group, epoch, id, c); err != nil {
				failed[id] = err
				continue
			}
		}
		if err := m.commit(epoch, id, c); err != nil {
			failed[id] = err
		}
	}
	return failed
}

func (m *fakeMember) commit(epoch int64, id mq.PartitionID, c mq.Commit) error {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := m.alive(); err != nil {
		return err
	}
	if !m.group.sharing().Owns(m.id, id, epoch) {
		return m.fenced(id)
	}
	if len(c.Map) > f.caps.CommitMetadata {
		return mq.Errorf(mq.TooLarge, "ack map of %d bytes, the limit is %d", len(c.Map), f.caps.CommitMetadata)
	}
	m.group.commits[id] = c
	f.notify()
	return nil
}

// Close implements mq.Group.
func (m *fakeMember) Close(context.Context) error {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.gone {
		return nil
	}
	m.gone = true
	close(m.left)
	m.group.members = slices.DeleteFunc(m.group.members, func(o *fakeMember) bool { return o == m })
	m.group.roster.Leave(m.id)
	if m.group.hands != nil {
		m.group.hands.leave(m.id)
	}
	f.notify()
	return nil
}
