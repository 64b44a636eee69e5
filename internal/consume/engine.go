package consume

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// ensureWait is how long a new subscription may take to come back in a snapshot.
const ensureWait = 5 * time.Second

// Engine is the consumer proxy of a node. New makes it, Drain ends it; all methods may be called at once.
type Engine struct {
	cfg      Config
	clusters Clusters
	control  Control
	remote   Remote
	snap     Snapshots
	node     string
	log      *slog.Logger
	now      func() time.Time
	origin   time.Time // of clock
	m        *metrics
	budget   budget
	maps     *rate.Limiter // bytes of ack maps
	leases   atomic.Int64
	ring     verifiers
	dones    sync.Pool // of call.done

	ctx  context.Context // of all goroutines
	stop context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex // guards the rest
	groups   map[string]*group
	lanes    map[laneKey]*partition
	sessions uint64
	draining bool
}

// laneKey names a lane of this node.
type laneKey struct {
	group, cluster string
	id             mq.PartitionID
}

var _ Consumer = (*Engine)(nil)

// New makes an engine; cfg must be valid.
func New(cfg Config, deps Deps) *Engine {
	cfg = cfg.WithDefaults()
	e := &Engine{
		cfg: cfg, clusters: deps.Clusters, control: deps.Control, remote: deps.Remote, snap: deps.Snapshot, node: deps.Node,
		log: deps.Log, now: deps.Now, origin: time.Now(), m: newMetrics(deps.Registerer, cfg),
		budget: budget{total: cfg.FetchBytes, floor: int64(cfg.LaneMinBytes), most: int64(cfg.LaneMaxBytes)},
		maps:   rate.NewLimiter(rate.Limit(cfg.MapBytes), cfg.MapBytes),
		groups: make(map[string]*group), lanes: make(map[laneKey]*partition),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.dones.New = func() any { return make(chan struct{}, 1) }
	e.ctx, e.stop = context.WithCancel(context.Background())
	return e
}

// clock is the monotonic time that lanes live by.
func (e *Engine) clock() time.Duration { return time.Since(e.origin) }

// Open implements Consumer.
func (e *Engine) Open(ctx context.Context, who auth.Who, sub Subscription) (Session, error) {
	if err := check(&sub); err != nil {
		return nil, err
	}
	g, err := e.subscribed(ctx, sub)
	if err != nil {
		return nil, err
	}
	return e.attach(who, sub, g)
}

// check fills what a client left out and refuses what is out of range.
func check(sub *Subscription) error {
	switch {
	case sub.Group == "":
		return fault.New(fault.InvalidArgument, "a subscription needs a group")
	case len(sub.Topics) == 0:
		return fault.New(fault.InvalidArgument, "the subscription of group %q names no topic", sub.Group)
	case len(sub.Topics) > MaxTopics:
		return fault.New(fault.InvalidArgument, "the subscription of group %q names %d topics; at most %d", sub.Group, len(sub.Topics), MaxTopics)
	}
	fill(&sub.Lease, DefaultLease)
	fill(&sub.MaxInFlight, DefaultMaxInFlight)
	if err := within("lease", sub.Lease, MinLease, MaxLease); err != nil {
		return fault.New(fault.InvalidArgument, "subscription of group %q: %v", sub.Group, err)
	}
	if err := within("max_in_flight", sub.MaxInFlight, 1, MaxMaxInFlight); err != nil {
		return fault.New(fault.InvalidArgument, "subscription of group %q: %v", sub.Group, err)
	}
	return nil
}

// subscribed gives the group with all of the topics. A group or topic that the snapshot knows needs no control plane.
func (e *Engine) subscribed(ctx context.Context, sub Subscription) (*snapshot.Group, error) {
	s := e.snap.Current()
	g := s.Groups[sub.Group]
	if !covers(g, sub.Topics) {
		for _, t := range sub.Topics {
			if s.Topics[t] == nil {
				if err := e.control.EnsureTopic(ctx, t); err != nil {
					return nil, controlError(err, "topic "+t)
				}
			}
		}
		asked := make(map[string]snapshot.Settings, len(sub.Topics))
		for _, t := range sub.Topics {
			asked[t] = snapshot.Settings{Order: sub.Order, Start: sub.Start}
		}
		if err := e.control.EnsureSubscription(ctx, sub.Group, asked); err != nil {
			return nil, controlError(err, "group "+sub.Group)
		}
		var err error
		if g, err = e.awaitGroup(ctx, sub); err != nil {
			return nil, err
		}
	}
	for _, t := range sub.Topics {
		have := g.Subscriptions[t].WithDefaults()
		if sub.Order != snapshot.OrderUnset && sub.Order != have.Order {
			return nil, fault.New(fault.SubscriptionConflict, "group %q reads topic %q in order mode %d, the client states %d; leave it out, or change it with `sluice group set`",
				sub.Group, t, have.Order, sub.Order)
		}
		if sub.Start != "" && sub.Start != have.Start {
			return nil, fault.New(fault.SubscriptionConflict, "group %q starts topic %q at %q, the client states %q; leave it out, or change it with `sluice group set`",
				sub.Group, t, have.Start, sub.Start)
		}
	}
	if len(g.Subscriptions) > MaxTopics {
		return nil, fault.New(fault.InvalidArgument, "group %q has %d topics; at most %d", sub.Group, len(g.Subscriptions), MaxTopics)
	}
	return g, nil
}

func controlError(err error, what string) error {
	if fault.ReasonOf(err) != fault.Internal {
		return err
	}
	return fault.Wrap(err, fault.ControlUnavailable, "%s is new here, and the control plane did not answer; try again when it is back", what)
}

func covers(g *snapshot.Group, topics []string) bool {
	if g == nil {
		return false
	}
	return !slices.ContainsFunc(topics, func(t string) bool { _, ok := g.Subscriptions[t]; return !ok })
}

// awaitGroup waits for the snapshot that has what the control plane just stored.
func (e *Engine) awaitGroup(ctx context.Context, sub Subscription) (*snapshot.Group, error) {
	ctx, cancel := context.WithTimeout(ctx, ensureWait)
	defer cancel()
	for {
		changed := e.snap.Changed()
		if g := e.snap.Current().Groups[sub.Group]; covers(g, sub.Topics) {
			return g, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fault.Wrap(context.Cause(ctx), fault.ControlUnavailable, "group %q was stored, but node %s got no snapshot that has it; try again", sub.Group, e.node)
		}
	}
}

// attach makes the session, and the group where this is its first one.
func (e *Engine) attach(who auth.Who, sub Subscription, def *snapshot.Group) (Session, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining {
		return nil, fault.New(fault.GoAway, "node %s is shutting down; go on at another node of group %q", e.node, sub.Group)
	}
	g := e.groups[sub.Group]
	if g == nil {
		if len(e.groups) >= e.cfg.MaxGroups {
			return nil, fault.New(fault.Unavailable, "node %s is full: %d groups; use another node, or raise max_groups", e.node, len(e.groups))
		}
		if len(e.lanes) >= e.cfg.MaxLanes {
			return nil, fault.New(fault.Unavailable, "node %s is full: %d lanes; use another node, or raise max_lanes", e.node, len(e.lanes))
		}
		g = newGroup(e, sub.Group, serving(e.snap.Current(), sub.Group))
		e.groups[sub.Group] = g
		e.m.groups.Inc()
		e.work.Go(g.run)
	}
	e.sessions++
	s := &session{
		e: e, g: g, id: e.sessions, app: who.App, settings: def.Subscriptions[sub.Topics[0]].WithDefaults(),
		lease: sub.Lease, limit: int64(sub.MaxInFlight), wake: make(chan struct{}, 1), events: make(chan Event, eventBuffer),
	}
	if err := g.attach(s, sub.Topics); err != nil {
		return nil, err
	}
	e.m.sessions.Inc()
	return s, nil
}

// GroupNodes implements Consumer.
func (e *Engine) GroupNodes(group string) []*snapshot.Node { return serving(e.snap.Current(), group) }

// Drain ends the engine: clients are told to go away, lanes stop leasing, wait a short time for their open leases,
// commit, and leave their groups. At ctx's end what is left is dropped: it is delivered again elsewhere.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	e.draining = true
	var groups []*group
	for _, g := range e.groups {
		groups = append(groups, g)
	}
	e.mu.Unlock()
	for _, g := range groups {
		g.each(func(s *session) { s.push(Event{GoAway: "node " + e.node + " is shutting down"}) })
		g.wakeUp()
	}
	var err error
	for _, g := range groups {
		select {
		case <-g.done:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	e.stop()
	e.work.Wait()
	return err
}

// LaneStatus is one lane of a group.
type LaneStatus struct {
	Topic, Cluster, Partition         string
	Committed, Fetched, HighWatermark int64
	Leased, Buffered, Window          int
	Epoch                             uint64
	Blocked                           string // "", or why the lane stands still
}

// Status is what this node holds of a group, sorted by topic, cluster and partition; lanes of the retry topic bear its name.
func (e *Engine) Status(group string) (lanes []LaneStatus, clients int) {
	e.mu.Lock()
	g := e.groups[group]
	e.mu.Unlock()
	if g == nil {
		return nil, 0
	}
	for _, p := range g.hub.all() {
		var st LaneStatus
		if p.call(func() { st = p.status() }) {
			lanes = append(lanes, st)
		}
	}
	slices.SortFunc(lanes, compareStatus)
	return lanes, g.clients()
}

// lane finds a lane of this node.
func (e *Engine) lane(k laneKey) *partition {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lanes[k]
}

func (e *Engine) remember(p *partition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lanes[p.key()] = p
}

func (e *Engine) forget(p *partition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lanes[p.key()] == p {
		delete(e.lanes, p.key())
	}
}

// takeLeases reserves up to n of the node's leases.
func (e *Engine) takeLeases(n int) int {
	if over := e.leases.Add(int64(n)) - int64(e.cfg.MaxLeases); over > 0 {
		back := min(int(over), n)
		e.leases.Add(int64(-back))
		n -= back
	}
	e.m.leases.Add(float64(n))
	return n
}

func (e *Engine) freeLeases(n int) {
	if n != 0 {
		e.leases.Add(int64(-n))
		e.m.leases.Sub(float64(n))
	}
}

// randomUint64 is unpredictable; crypto/rand never fails.
func randomUint64() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // documented never to return an error
	return binary.LittleEndian.Uint64(b[:])
}
