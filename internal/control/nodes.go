package control

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// forgetAfter is how long a dead node stays in the lists.
const forgetAfter = 24 * time.Hour

// member is a node that is, or counts as, alive.
type member struct {
	node     snapshot.Node
	join     uint64 // 0: alive by the grace of a start, until it joins
	deadline time.Time
	draining bool // by its own word: it is stopping
	stored   bool // the store knows that it is alive
}

// Member is one stream of a node that joined.
type Member struct {
	s    *Service
	name string
	join uint64
}

// keepAlive lets nodes that were alive when the control plane stopped count as alive for a while.
func (s *Service) keepAlive(st *store.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range st.Nodes {
		if n.Alive && name != s.deps.Self.Name {
			s.members[name] = &member{node: *n, deadline: s.now().Add(s.cfg.StartGrace), stored: true}
		}
	}
}

// Join registers a node and counts it as alive from now on; the snapshot says so
// when Join returns. A second node of the same name takes the first one's place.
// seen is the snapshot version that the node has: where the store is behind it
// (restored from a backup), the version is raised, else the node would refuse
// what is new.
func (s *Service) Join(ctx context.Context, who auth.Who, n snapshot.Node, seen uint64) (*Member, error) {
	if err := checkNode(&n); err != nil {
		return nil, err
	}
	if n.Name == s.deps.Self.Name {
		return nil, fault.New(fault.Conflict, "node name %q belongs to this control node; give each node a name of its own with --node", n.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.Alive = true
	if now := s.current().Version; seen > now {
		s.log.WarnContext(ctx, "a node has seen a newer snapshot than the store; was the store restored from a backup?", "node", n.Name, "snapshot", seen, "version", now)
	}
	st, err := s.deps.Store.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Raise(ctx, seen); err != nil {
			return err
		}
		return tx.PutNode(ctx, &n)
	})
	if err != nil {
		return nil, err
	}
	s.joins++
	s.members[n.Name] = &member{node: n, join: s.joins, deadline: s.now().Add(s.cfg.DeadAfter), stored: true, draining: n.Draining}
	s.log.InfoContext(ctx, "node joined", "node", n.Name, "grpc", n.GRPC, "roles", n.Roles, "build", n.Build, "who", actor(who))
	return &Member{s: s, name: n.Name, join: s.joins}, s.publish(st)
}

func checkNode(n *snapshot.Node) error {
	if err := checkPlainName("node", n.Name); err != nil {
		return err
	}
	if err := checkAddress("node "+n.Name, n.GRPC); err != nil {
		return err
	}
	if n.HTTP != "" {
		if err := checkAddress("node "+n.Name, n.HTTP); err != nil {
			return err
		}
	}
	for _, r := range n.Roles {
		if !slices.Contains([]string{"producer", "consumer", "control"}, r) {
			return fault.New(fault.InvalidArgument, "node %q: role %.40q is unknown", n.Name, r)
		}
	}
	return nil
}

// Beat says that the node lives. False: a newer stream speaks for that name, this one should end.
func (m *Member) Beat(draining bool) bool {
	s := m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.members[m.name]
	if have == nil || have.join != m.join {
		return false
	}
	have.deadline = s.now().Add(s.cfg.DeadAfter)
	if have.draining != draining {
		have.draining = draining
		s.republish("node drains", "node", m.name, "draining", draining)
	}
	return true
}

// Leave says that the node goes by itself: it is dead at once.
func (m *Member) Leave() {
	s := m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.members[m.name]; have != nil && have.join == m.join {
		have.deadline = time.Time{}
		s.bury()
	}
}

// SetDraining says that this control node itself is stopping, or not.
func (s *Service) SetDraining(draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.selfDraining = draining
	s.republish("node drains", "node", s.deps.Self.Name, "draining", draining)
}

// republish publishes what stands in members. mu is held.
func (s *Service) republish(msg string, args ...any) {
	st, err := s.deps.Store.Write(context.Background(), func(context.Context, *store.Tx) error { return nil })
	if err == nil {
		err = s.publish(st)
	}
	if err != nil {
		s.log.Error("snapshot not published", "err", err)
		return
	}
	s.log.Info(msg, args...) //nolint:sloglint // callers pass constants
}

// watchNodes finds nodes that fell silent.
func (s *Service) watchNodes(ctx context.Context) {
	tick := time.NewTicker(s.cfg.DeadAfter / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.mu.Lock()
			s.bury()
			s.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// bury stores and publishes that nodes are dead whose deadline passed. What the
// store does not take now is tried again at the next tick. mu is held.
func (s *Service) bury() {
	now := s.now()
	var dead []*member
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		if m := s.members[name]; !now.Before(m.deadline) {
			dead = append(dead, m)
		}
	}
	s.metrics.nodesAlive.Set(float64(len(s.members) - len(dead) + 1))
	if len(dead) == 0 {
		return
	}
	st, err := s.deps.Store.Write(context.Background(), func(ctx context.Context, tx *store.Tx) error {
		for _, m := range dead {
			n := m.node
			n.Alive = false
			if err := tx.PutNode(ctx, &n); err != nil {
				return err
			}
		}
		return tx.DeleteNodesUnseen(ctx, now.Add(-forgetAfter).UnixMilli())
	})
	if err != nil {
		s.log.Error("dead nodes not stored", "nodes", len(dead), "err", err)
		return
	}
	for _, m := range dead {
		delete(s.members, m.node.Name)
		if m.deadline.IsZero() {
			s.log.Info("node left", "node", m.node.Name)
			continue
		}
		s.metrics.nodesDied.Inc()
		s.log.Warn("node is silent and counts as dead", "node", m.node.Name, "after", s.cfg.DeadAfter)
	}
	if err := s.publish(st); err != nil {
		s.log.Error("snapshot not published", "err", err)
	}
}

// ListNodes lists nodes by name.
func (s *Service) ListNodes(context.Context) []*snapshot.Node {
	nodes := s.current().Nodes
	list := make([]*snapshot.Node, 0, len(nodes))
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		list = append(list, nodes[name])
	}
	return list
}

// DrainNode moves a node's work elsewhere, or lets it take work again.
func (s *Service) DrainNode(ctx context.Context, who auth.Who, name string, drain bool) error {
	_, err := s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error { return tx.DrainNode(ctx, name, drain) })
	if err != nil {
		return stored(err, fault.InvalidArgument, "node", name)
	}
	s.audit(ctx, who, "node drain", name, !drain, drain)
	return nil
}
