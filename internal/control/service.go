// Package control is the control plane: it owns clusters, topics, groups,
// tokens and nodes, keeps them in the store, and publishes each change as a
// snapshot with a higher version.
//
// Writes to the store are done one after the other under Service.mu; the
// snapshot is published before the lock is left, so that versions reach the
// Holder in order. Brokers are never called under that lock. Lists answer from
// memory: what they say of clusters comes from a background prober.
package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/peer"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// EmbeddedCluster is the name of the built-in cluster.
const EmbeddedCluster = "embedded"

// Config is what an operator can set.
type Config struct {
	// AutoCreate makes topics at their first use, on the embedded cluster (--dev).
	AutoCreate bool
	// ProbeEvery is the time between two looks at a cluster; 0: 10 s.
	ProbeEvery time.Duration
	// DeadAfter is how long a node may be silent; 0: 3 s. Nodes beat every second.
	DeadAfter time.Duration
	// StartGrace is how long nodes that were alive when the control plane stopped count as
	// alive without a beat, so that its restart moves no lanes; 0: 15 s.
	StartGrace time.Duration
	// ResetTimeout is how long a reset waits for a group's members to leave; 0: 30 s.
	ResetTimeout time.Duration
}

// Clusters gives drivers; cluster.Registry is one.
type Clusters interface {
	Driver(name string) (mq.Driver, error)
	// Trial opens a cluster that need not be registered; the caller closes it.
	Trial(c *snapshot.Cluster) (mq.Driver, error)
}

// Peers asks nodes what they hold; this node among them.
type Peers interface {
	GroupStatus(ctx context.Context, node, group string) (peer.GroupStatus, error)
}

// Deps are what a Service works with. Peers may be nil.
type Deps struct {
	// Self is this node; it is alive for as long as the service runs.
	Self snapshot.Node
	// Embedded: this node holds an embedded store.
	Embedded   bool
	Store      *store.Store
	Snapshots  *snapshot.Holder
	Box        *secret.Box
	Clusters   Clusters
	Peers      Peers
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil: time.Now
}

// Service is the control plane of one node. All methods may be called by any goroutine.
type Service struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	probes  *prober
	stop    context.CancelFunc
	work    sync.WaitGroup

	ensuring sync.Mutex // one first use at a time makes topics; never taken under mu

	mu      sync.Mutex         // orders writes; guards all below
	members map[string]*member // nodes that beat
	joins   uint64             // numbers joins, so that an old stream of a node cannot speak for the new one
	keys    []snapshot.ReceiptKey
	// selfDraining: this node is stopping.
	selfDraining bool
	// setupFile holds the link that was offered; "": none.
	setupFile string
}

// New starts the control plane: it reads the store, makes what a first start
// needs (a receipt key, the embedded cluster) and publishes the first snapshot.
// Close ends its goroutines.
func New(ctx context.Context, cfg Config, deps Deps) (*Service, error) {
	s := &Service{cfg: withDefaults(cfg), deps: deps, log: deps.Log, now: deps.Now, members: map[string]*member{}}
	if s.now == nil {
		s.now = time.Now
	}
	s.metrics = newMetrics(deps.Registerer)
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	s.probes = newProber(s)
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.work.Go(func() { s.watchNodes(run) })
	s.work.Go(func() { s.probes.run(run) })
	return s, nil
}

func withDefaults(c Config) Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.ProbeEvery, 10*time.Second)
	set(&c.DeadAfter, 3*time.Second)
	set(&c.StartGrace, 15*time.Second)
	set(&c.ResetTimeout, 30*time.Second)
	return c
}

// Close ends the background work and waits for it.
func (s *Service) Close(context.Context) error {
	s.stop()
	s.work.Wait()
	return nil
}

// prepare does what a start needs in one write.
func (s *Service) prepare(ctx context.Context) error {
	st, err := s.deps.Store.Load(ctx)
	if err != nil {
		return err
	}
	s.keepAlive(st)
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err = s.deps.Store.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		self := s.deps.Self
		self.Alive, self.Draining = true, false
		if err := tx.PutNode(ctx, &self); err != nil {
			return err
		}
		if len(st.SealedKeys) == 0 {
			if err := s.addReceiptKey(ctx, tx, 1); err != nil {
				return err
			}
		}
		if s.deps.Embedded && st.Clusters[EmbeddedCluster] == nil {
			c := &snapshot.Cluster{Name: EmbeddedCluster, Kind: mq.Embedded, Node: s.deps.Self.Name, Datacenter: s.deps.Self.Datacenter}
			if err := tx.InsertCluster(ctx, c); err != nil {
				return err
			}
		}
		return s.endSuspensions(ctx, tx, st)
	})
	if err != nil {
		return err
	}
	return s.publish(st)
}

// endSuspensions lets groups go on whose reset was cut off by a crash: nothing else suspends one.
func (s *Service) endSuspensions(ctx context.Context, tx *store.Tx, st *store.State) error {
	for _, name := range slices.Sorted(maps.Keys(st.Groups)) {
		g := *st.Groups[name]
		if !g.Suspended {
			continue
		}
		g.Suspended = false
		if err := tx.UpdateGroup(ctx, &g, 0); err != nil {
			return err
		}
		s.log.Warn("group was suspended by a reset that did not end; it goes on", "group", name)
	}
	return nil
}

// write runs fn on the store and publishes the result. With dry nothing happens
// but the checks; the state is what it would be.
func (s *Service) write(ctx context.Context, dry bool, fn func(context.Context, *store.Tx) error) (*store.State, error) {
	if dry {
		return s.deps.Store.Try(ctx, fn)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.deps.Store.Write(ctx, fn)
	if err != nil {
		return nil, err
	}
	s.metrics.writes.Inc()
	return st, s.publish(st)
}

// publish makes st the newest snapshot. mu is held.
func (s *Service) publish(st *store.State) error {
	snap := st.Snapshot // the maps are fresh from the store: nobody else has them
	for _, k := range st.SealedKeys {
		if slices.ContainsFunc(s.keys, func(have snapshot.ReceiptKey) bool { return have.ID == k.ID }) {
			continue
		}
		key, err := s.deps.Box.Open(store.ReceiptKeyPlace(k.ID), k.Sealed)
		if err != nil {
			return fmt.Errorf("receipt key %d: %w", k.ID, err)
		}
		s.keys = append(s.keys, snapshot.ReceiptKey{ID: k.ID, Key: key})
	}
	slices.SortFunc(s.keys, func(a, b snapshot.ReceiptKey) int { return int(int64(b.ID) - int64(a.ID)) })
	snap.ReceiptKeys = slices.Clone(s.keys)
	for name, n := range snap.Nodes {
		if m := s.members[name]; m != nil && m.draining || name == s.deps.Self.Name && s.selfDraining {
			n.Draining = true
		}
	}
	if err := s.deps.Snapshots.Set(&snap); err != nil {
		return fmt.Errorf("publish snapshot: %w", err)
	}
	return nil
}

// current is the newest snapshot; it must not be changed.
func (s *Service) current() *snapshot.Snapshot { return s.deps.Snapshots.Current() }

// audit logs a write: who did what to which, before and after, without secrets.
func (s *Service) audit(ctx context.Context, who auth.Who, action, target string, before, after any) {
	s.log.InfoContext(ctx, "audit", "who", actor(who), "action", action, "target", target, "before", shown(before), "after", shown(after))
}
