package embedded

import (
	"context"
	"errors"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/roster"
)

const (
	maxGroupBytesName       = 1024
	maxMapBytes             = 4096 // as Kafka's brokers by default: an ack map is the same everywhere
	defaultRebalanceTimeout = 30 * time.Second
)

// group is a consumer group with members in this process; one node owns the folder, so there are no others.
type group struct {
	name string

	mu      sync.Mutex // guards the rest
	roster  *roster.Roster
	members []*membership
	changed chan struct{} // closed and replaced at each change
}

func (g *group) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// membership is one member; it is an mq.Group.
type membership struct {
	s    *Store
	g    *group
	id   roster.Member
	cfg  mq.GroupConfig
	left chan struct{} // closed by Close
	once sync.Once
}

var _ mq.Group = (*membership)(nil)

// Group implements mq.Driver.
func (s *Store) Group(ctx context.Context, cfg mq.GroupConfig) (mq.Group, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	if err := checkGroup(cfg.Group); err != nil {
		return nil, err
	}
	if cfg.RebalanceTimeout <= 0 {
		cfg.RebalanceTimeout = defaultRebalanceTimeout
	}
	m := &membership{s: s, cfg: cfg, left: make(chan struct{})}
	s.groupsMu.Lock()
	defer s.groupsMu.Unlock()
	g := s.groups[cfg.Group]
	if g == nil {
		g = &group{name: cfg.Group, roster: roster.New(s.floor.Load()), changed: make(chan struct{})}
		s.groups[cfg.Group] = g
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range cfg.Topics {
		if t, err := s.topic(name); err == nil { // one that does not exist yet is added when it does
			g.roster.SetPartitions(name, t.ids())
		}
	}
	m.g, m.id = g, g.roster.Join(cfg.Topics, cfg.RebalanceTimeout)
	g.members = append(g.members, m)
	g.notify()
	return m, nil
}

func checkGroup(name string) error {
	if name == "" || len(name) > maxGroupBytesName || !utf8.ValidString(name) {
		return mq.Errorf(mq.Invalid, "group name of %d bytes; from 1 to %d bytes of UTF-8", len(name), maxGroupBytesName)
	}
	return nil
}

// shareTopic tells all groups which partitions a topic has now.
func (s *Store) shareTopic(name mq.Topic) {
	var ids []mq.PartitionID
	if t, err := s.topic(name); err == nil {
		ids = t.ids()
	}
	s.groupsMu.Lock()
	defer s.groupsMu.Unlock()
	for _, g := range s.groups {
		g.mu.Lock()
		g.roster.SetPartitions(name, ids)
		g.notify()
		g.mu.Unlock()
	}
}

// members copies the members of a group, none where it has none.
func (s *Store) members(name string) []*membership {
	s.groupsMu.Lock()
	defer s.groupsMu.Unlock()
	g := s.groups[name]
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*membership(nil), g.members...)
}

// Next implements mq.Group.
func (m *membership) Next(ctx context.Context) (mq.Assignment, error) {
	for {
		if err := m.ready(ctx); err != nil {
			return mq.Assignment{}, err
		}
		a, ok, changed, expiry := m.poll()
		if ok {
			return a, nil
		}
		m.sleep(ctx, changed, expiry)
	}
}

// poll takes the next change, or says what to wait for: a change, or the end of another member's patience (0: none).
func (m *membership) poll() (a mq.Assignment, ok bool, changed <-chan struct{}, expiry time.Duration) {
	g := m.g
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now() // a wait inside the process: the monotonic clock
	if g.roster.Expire(now) {
		g.notify()
	}
	if a, ok = g.roster.Next(m.id, now); ok {
		return a, true, nil, 0
	}
	if at, ok := g.roster.Deadline(); ok {
		expiry = max(at.Sub(now), time.Millisecond)
	}
	return a, false, g.changed, expiry
}

func (m *membership) sleep(ctx context.Context, changed <-chan struct{}, expiry time.Duration) {
	var expired <-chan time.Time
	if expiry > 0 {
		timer := time.NewTimer(expiry)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-changed:
	case <-expired:
	case <-m.left:
	case <-m.s.closing:
	case <-ctx.Done():
	}
}

func (m *membership) ready(ctx context.Context) error {
	if err := m.s.ready(ctx); err != nil {
		return err
	}
	select {
	case <-m.left:
		return mq.Errorf(mq.Closed, "this membership of group %q was closed", m.cfg.Group)
	default:
		return nil
	}
}

// Done implements mq.Group.
func (m *membership) Done(epoch int64) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	m.g.roster.Done(m.id, epoch)
	m.g.notify()
}

// Fetch implements mq.Group.
func (m *membership) Fetch(ctx context.Context, p mq.PartitionID, offset int64, l mq.Limits) (mq.Batch, error) {
	return m.s.fetch(ctx, p, offset, l, m)
}

// may implements access.
func (m *membership) may(p mq.PartitionID) error {
	select {
	case <-m.left:
		return mq.Errorf(mq.Closed, "this membership of group %q was closed", m.cfg.Group)
	default:
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	if !m.g.roster.Holds(m.id, p) {
		return m.fenced(p)
	}
	return nil
}

// mayNot implements access.
func (m *membership) mayNot() <-chan struct{} {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return m.g.changed
}

func (m *membership) fenced(p mq.PartitionID) *mq.Error {
	return mq.Errorf(mq.Fenced, "topic %s partition %s is not this member's of group %q", p.Topic, p, m.cfg.Group)
}

// Committed implements mq.Group.
func (m *membership) Committed(ctx context.Context, ps []mq.PartitionID) (map[mq.PartitionID]mq.Commit, error) {
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	out := make(map[mq.PartitionID]mq.Commit, len(ps))
	// Through the committer and by itself: behind every commit of an earlier owner, in front of every later one.
	err := m.s.alone(ctx, func(t *tx) error {
		fresh := make(map[*partition]mq.Commit)
		for _, id := range ps {
			if err := m.may(id); err != nil {
				return err
			}
			p, _, err := m.s.partition(id)
			if err != nil {
				return err
			}
			c, ok, err := position(t.db, m.cfg.Group, p)
			if err != nil {
				return err
			}
			if !ok {
				look := func(p *partition) (*cursor, error) { return openCursor(t.db, func() {}, p) }
				if c.Offset, err = resolve(ctx, p, m.cfg.Start[id.Topic], look); err != nil {
					return err
				}
				fresh[p] = c
			}
			out[id] = c
		}
		return t.positions(m.cfg.Group, fresh)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// position reads a group's position in a partition.
func position(db *pebble.DB, group string, p *partition) (mq.Commit, bool, error) {
	value, closer, err := db.Get(positionKey(group, p.topic, p.id.Index))
	if errors.Is(err, pebble.ErrNotFound) {
		return mq.Commit{}, false, nil
	}
	if err != nil {
		return mq.Commit{}, false, err
	}
	c, ok := decodePosition(value)
	return c, ok, closer.Close()
}

// positions stages positions of a group.
func (t *tx) positions(group string, cs map[*partition]mq.Commit) error {
	for p, c := range cs {
		if err := t.batch.Set(positionKey(group, p.topic, p.id.Index), encodePosition(c), nil); err != nil {
			return err
		}
	}
	return nil
}

// Commit implements mq.Group. Ownership is checked by the committer, under the lock of the revocation: what it takes
// is written before anything of the next owner.
func (m *membership) Commit(ctx context.Context, epoch int64, cs map[mq.PartitionID]mq.Commit) map[mq.PartitionID]error {
	failed := make(map[mq.PartitionID]error)
	all := func(err error) map[mq.PartitionID]error {
		for id := range cs {
			if failed[id] == nil {
				failed[id] = err
			}
		}
		return failed
	}
	if err := m.ready(ctx); err != nil {
		return all(err)
	}
	if len(cs) == 0 {
		return failed
	}
	refused := make(map[mq.PartitionID]error) // the committer's; read only when it is done with it
	err := m.s.do(ctx, &op{run: func(t *tx) error { return m.stage(t, epoch, cs, refused) }})
	if err != nil {
		return all(err)
	}
	m.s.m.fenced.Add(float64(len(refused)))
	return refused
}

func (m *membership) stage(t *tx, epoch int64, cs map[mq.PartitionID]mq.Commit, refused map[mq.PartitionID]error) error {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	good := make(map[*partition]mq.Commit, len(cs))
	for id, c := range cs {
		p, _, err := m.s.partition(id)
		switch {
		case !m.g.roster.Owns(m.id, id, epoch):
			refused[id] = m.fenced(id)
		case err != nil:
			refused[id] = err
		case len(c.Map) > maxMapBytes:
			refused[id] = mq.Errorf(mq.TooLarge, "ack map of %d bytes, the limit is %d", len(c.Map), maxMapBytes)
		case c.Offset < 0:
			refused[id] = mq.Errorf(mq.Invalid, "offset %d", c.Offset)
		default:
			good[p] = c
		}
	}
	return t.positions(m.cfg.Group, good)
}

// Close implements mq.Group.
func (m *membership) Close(context.Context) error {
	m.once.Do(func() {
		close(m.left)
		s, g := m.s, m.g
		s.groupsMu.Lock()
		defer s.groupsMu.Unlock()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.roster.Leave(m.id)
		for i, o := range g.members {
			if o == m {
				g.members = append(g.members[:i:i], g.members[i+1:]...)
				break
			}
		}
		if len(g.members) == 0 {
			// Forgotten, so that names do not pile up; the next one of that name goes on above its epochs.
			s.floor.Store(max(s.floor.Load(), g.roster.Epoch()))
			delete(s.groups, g.name)
		}
		g.notify()
	})
	return nil
}
