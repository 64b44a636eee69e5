package control

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// prober looks at every cluster again and again, so that lists answer from memory.
type prober struct {
	s *Service

	mu    sync.Mutex // guards seen
	seen  map[string]*sight
	newer chan struct{} // a nudge after a cluster was added
}

// sight is what was seen of a cluster last.
type sight struct {
	info   ClusterInfo
	topics map[mq.Topic]shape
	groups []string // the broker's own
}

// shape is a topic's partition and replica count.
type shape struct{ partitions, replicas int }

func newProber(s *Service) *prober {
	return &prober{s: s, seen: map[string]*sight{}, newer: make(chan struct{}, 1)}
}

func (p *prober) run(ctx context.Context) {
	tick := time.NewTicker(p.s.cfg.ProbeEvery)
	defer tick.Stop()
	for {
		p.round(ctx)
		select {
		case <-tick.C:
		case <-p.newer:
		case <-ctx.Done():
			return
		}
	}
}

// round looks at all clusters at once; one that hangs ends with the round's time.
func (p *prober) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.s.cfg.ProbeEvery)
	defer cancel()
	var looks sync.WaitGroup
	for name := range p.s.current().Clusters {
		looks.Go(func() { p.look(ctx, name) })
	}
	looks.Wait()
}

func (p *prober) look(ctx context.Context, name string) {
	next := &sight{info: ClusterInfo{Health: HealthDown}}
	d, err := p.s.deps.Clusters.Driver(name)
	if err != nil {
		next.info.Health, next.info.HealthText = HealthUnknown, err.Error()
		p.put(name, next)
		return
	}
	if err := look(ctx, d, &next.info); err != nil {
		p.s.metrics.probeErrors.WithLabelValues(name).Inc()
		p.put(name, next)
		return
	}
	if topics, err := d.Admin().Topics(ctx); err == nil {
		next.topics = make(map[mq.Topic]shape, len(topics))
		for _, t := range topics {
			next.topics[t.Name] = shape{len(t.Partitions), replicasOf(t.Partitions)}
		}
	}
	if groups, err := d.Admin().Groups(ctx); err == nil {
		next.groups = groups
	}
	p.put(name, next)
}

// put keeps what is new; of topics and groups the old is kept where they could not be read.
func (p *prober) put(name string, next *sight) {
	if p.s.current().Clusters[name] == nil {
		return // removed in the meantime
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.seen[name]
	if old != nil && next.topics == nil {
		next.topics = old.topics
	}
	if old != nil && next.groups == nil {
		next.groups = old.groups
	}
	if old != nil && old.info.Health != next.info.Health {
		p.s.log.Info("cluster health changed", "cluster", name, "health", next.info.Health, "was", old.info.Health, "why", next.info.HealthText)
	}
	p.seen[name] = next
}

// remember keeps what somebody else saw, and nudges the prober to see the rest.
func (p *prober) remember(name string, info *ClusterInfo) {
	p.put(name, &sight{info: *info})
	select {
	case p.newer <- struct{}{}:
	default:
	}
}

func (p *prober) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.seen, name)
	p.s.metrics.probeErrors.DeleteLabelValues(name)
}

func (p *prober) info(name string) ClusterInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.seen[name]; s != nil {
		return s.info
	}
	return ClusterInfo{Health: HealthUnknown, HealthText: "not looked at yet"}
}

func (p *prober) shape(cluster string, t mq.Topic) shape {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.seen[cluster]; s != nil {
		return s.topics[t]
	}
	return shape{}
}

// groups are the brokers' groups, by name, each with its clusters.
func (p *prober) groups() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string][]string{}
	for _, cluster := range slices.Sorted(maps.Keys(p.seen)) {
		for _, g := range p.seen[cluster].groups {
			all[g] = append(all[g], cluster)
		}
	}
	return all
}
