package consume

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// group is a consumer group with clients here, or lanes.
type group struct {
	e     *Engine
	name  string
	hub   hub
	pokes chan struct{} // one token for run
	done  chan struct{} // closed when run has ended

	mu       sync.Mutex // guards the rest
	sessions map[uint64]*session
	topics   []string // by bit; only grows
	nodes    []*snapshot.Node
	idle     time.Time    // since when there is no client; zero: there is one
	failure  *fault.Error // why it cannot be joined

	members map[string]*member // by cluster; run's own
}

// spec is what the snapshot says of a group; immutable.
type spec struct {
	topics   []string // by bit
	settings map[string]snapshot.Settings
	paused   bool
}

func newGroup(e *Engine, name string, nodes []*snapshot.Node) *group {
	return &group{
		e: e, name: name, nodes: nodes, pokes: make(chan struct{}, 1), done: make(chan struct{}),
		sessions: make(map[uint64]*session), members: make(map[string]*member),
	}
}

// run is the supervisor: after each change it makes what is what should be.
func (g *group) run() {
	defer close(g.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		changed := g.e.snap.Changed()
		wait, over := g.reconcile(g.e.snap.Current())
		if over {
			return
		}
		timer.Reset(wait)
		select {
		case <-g.pokes:
		case <-changed:
		case <-timer.C:
		case <-g.e.ctx.Done():
		}
	}
}

func (g *group) wakeUp() {
	select {
	case g.pokes <- struct{}{}:
	default:
	}
}

// reconcile says when to look again at the latest, and when the group is over.
func (g *group) reconcile(s *snapshot.Snapshot) (wait time.Duration, over bool) {
	nodes := serving(s, g.name)
	g.tellNodes(nodes)
	def := s.Groups[g.name]
	wait, idle := g.quiet()
	ending := g.e.ending()
	var want map[string]map[mq.Topic]string
	if def != nil && !def.Suspended && !idle && !ending && g.e.serves(s, nodes) {
		want = topicsByCluster(s, def)
	}
	g.existence(def != nil)
	g.leaveOthers(want)
	if (idle || ending) && g.end(ending) {
		return 0, true
	}
	if want != nil {
		g.join(want, g.spec(def))
	}
	return wait, false
}

// topicsByCluster maps each cluster's physical topics to the group's logical ones.
func topicsByCluster(s *snapshot.Snapshot, def *snapshot.Group) map[string]map[mq.Topic]string {
	out := make(map[string]map[mq.Topic]string)
	for name := range def.Subscriptions {
		t := s.Topics[name]
		if t == nil {
			continue
		}
		for _, h := range t.Homes {
			if out[h.Cluster] == nil {
				out[h.Cluster] = make(map[mq.Topic]string)
			}
			out[h.Cluster][h.Topic] = name
		}
	}
	return out
}

// spec gives the topics their bits and takes the settings.
func (g *group) spec(def *snapshot.Group) *spec {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range slices.Sorted(maps.Keys(def.Subscriptions)) {
		g.bit(t)
	}
	return &spec{topics: slices.Clone(g.topics), settings: def.Subscriptions, paused: def.Paused}
}

// bit is a topic's place; -1 where there are too many. The caller holds mu.
func (g *group) bit(topic string) int {
	if i := slices.Index(g.topics, topic); i >= 0 {
		return i
	}
	if len(g.topics) >= MaxTopics {
		return -1
	}
	g.topics = append(g.topics, topic)
	return len(g.topics) - 1
}

// leaveOthers ends the memberships that are not wanted, or not like this, all at once.
func (g *group) leaveOthers(want map[string]map[mq.Topic]string) {
	var leaving []*member
	for cluster, m := range g.members {
		if !maps.Equal(want[cluster], m.topics) {
			leaving = append(leaving, m)
			delete(g.members, cluster)
			m.leave()
		}
	}
	for _, m := range leaving {
		<-m.done
	}
}

func (g *group) join(want map[string]map[mq.Topic]string, sp *spec) {
	for cluster, topics := range want {
		m := g.members[cluster]
		if m == nil {
			m = newMember(g, cluster, topics, sp)
			g.members[cluster] = m
			g.e.work.Go(m.run)
			continue
		}
		m.configure(sp)
	}
}

// tellNodes tells the clients where the group is served, when that changed.
func (g *group) tellNodes(nodes []*snapshot.Node) {
	g.mu.Lock()
	same := sameNodes(g.nodes, nodes)
	g.nodes = nodes
	g.mu.Unlock()
	if same {
		return
	}
	if nodes == nil {
		nodes = []*snapshot.Node{}
	}
	g.each(func(s *session) { s.push(Event{Nodes: nodes}) })
}

// fail tells the clients that the group cannot be served; nil: it can.
func (g *group) fail(f *fault.Error) {
	g.mu.Lock()
	g.failure = f
	g.mu.Unlock()
	if f != nil {
		g.each(func(s *session) { s.push(Event{Err: f}) })
	}
}

// existence tells the clients of a group that was deleted, and lets new ones in where it is there again.
func (g *group) existence(exists bool) {
	g.mu.Lock()
	gone := g.failure != nil && g.failure.Reason == fault.GroupNotFound
	g.mu.Unlock()
	switch {
	case exists && gone:
		g.fail(nil)
	case !exists && !gone:
		g.fail(fault.New(fault.GroupNotFound, "group %q was deleted", g.name))
	}
}

// quiet tells how long to wait until the group may be left, and whether that time has come.
func (g *group) quiet() (wait time.Duration, idle bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sessions) > 0 || g.idle.IsZero() {
		return time.Hour, false
	}
	wait = g.e.cfg.LeaveAfter - time.Since(g.idle)
	return wait, wait <= 0
}

// end takes the group out of the engine unless a client came meanwhile.
func (g *group) end(ending bool) bool {
	g.e.mu.Lock()
	defer g.e.mu.Unlock()
	if !ending && g.clients() > 0 {
		return false
	}
	delete(g.e.groups, g.name)
	g.e.m.groups.Dec()
	return true
}

// ending tells whether the engine drains.
func (e *Engine) ending() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.draining || e.ctx.Err() != nil
}

// attach adds a session.
func (g *group) attach(s *session, topics []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure != nil {
		return g.failure
	}
	for _, t := range topics {
		i := g.bit(t)
		if i < 0 {
			return fault.New(fault.InvalidArgument, "group %q has had more than %d topics", g.name, MaxTopics)
		}
		s.topics |= 1 << i
	}
	g.sessions[s.id] = s
	g.idle = time.Time{}
	g.wakeUp()
	return nil
}

func (g *group) detach(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions[s.id] != s {
		return
	}
	delete(g.sessions, s.id)
	g.e.m.sessions.Dec()
	if len(g.sessions) == 0 {
		g.idle = time.Now()
	}
	g.wakeUp()
}

func (g *group) session(id uint64) *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[id]
}

func (g *group) clients() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions)
}

// each calls fn for every session, outside of the lock.
func (g *group) each(fn func(*session)) {
	g.mu.Lock()
	all := slices.Collect(maps.Values(g.sessions))
	g.mu.Unlock()
	for _, s := range all {
		fn(s)
	}
}

func policyOf(st snapshot.Settings) lane.Policy {
	st = st.WithDefaults()
	return lane.Policy{MaxAttempts: st.MaxAttempts, BackoffMin: st.BackoffMin, BackoffMax: st.BackoffMax}
}

func modeOf(o snapshot.Order) lane.Mode {
	switch o {
	case snapshot.OrderKey:
		return lane.ByKey
	case snapshot.OrderPartition:
		return lane.ByPartition
	case snapshot.OrderUnset, snapshot.OrderNone:
		return lane.Any
	default:
		return lane.ByPartition // a mode of a newer control plane: the strictest is never wrong
	}
}
