package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// autoPartitions is how many partitions a topic gets that its first use made.
const autoPartitions = 4

// defaultBlock is the block size of un-keyed placement.
const defaultBlock = 8

// EnsureTopic gives a snapshot that knows the topic. A topic that does not exist
// is made where the configuration allows it (AutoCreate), else it is fault.TopicNotFound.
func (s *Service) EnsureTopic(ctx context.Context, name string) (*snapshot.Snapshot, error) {
	if snap := s.current(); snap.Topics[name] != nil {
		return snap, nil
	}
	if !s.cfg.AutoCreate || s.current().Clusters[EmbeddedCluster] == nil {
		return nil, fault.New(fault.TopicNotFound, "topic %q does not exist; create it with `sluice topic create`, or adopt the cluster's with `sluice topic adopt`", name)
	}
	s.ensuring.Lock()
	defer s.ensuring.Unlock()
	if snap := s.current(); snap.Topics[name] != nil {
		return snap, nil
	}
	_, err := s.CreateTopic(ctx, auth.Who{Anonymous: true}, TopicSpec{Name: name, Cluster: EmbeddedCluster, Partitions: autoPartitions}, false)
	if err != nil && fault.ReasonOf(err) != fault.AlreadyExists {
		return nil, err
	}
	return s.current(), nil
}

// EnsureSubscription gives a snapshot in which the group subscribes to these
// topics. Settings that are stated must be those that the group has
// (fault.SubscriptionConflict); for a topic that is new to the group they are
// stored. The group's retry and dead-letter topics are made on each cluster of
// its topics.
func (s *Service) EnsureSubscription(ctx context.Context, group string, subs map[string]snapshot.Settings) (*snapshot.Snapshot, error) {
	if err := checkName("group", group); err != nil {
		return nil, err
	}
	if len(subs) == 0 {
		return nil, fault.New(fault.InvalidArgument, "group %q subscribes to no topic; name at least one", group)
	}
	for topic, set := range subs {
		if err := checkSettings(topic, set); err != nil {
			return nil, err
		}
		if _, err := s.EnsureTopic(ctx, topic); err != nil {
			return nil, err
		}
	}
	snap := s.current()
	if known, err := compare(snap.Groups[group], group, subs); known || err != nil {
		return snap, err
	}
	s.ensuring.Lock()
	defer s.ensuring.Unlock()
	if err := s.makeGroupTopics(ctx, group, subs); err != nil {
		return nil, err
	}
	var before, after *snapshot.Group
	_, err := s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error {
		g, err := tx.Group(ctx, group)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		before = g
		if known, err := compare(g, group, subs); known || err != nil {
			after = g
			return err
		}
		after = &snapshot.Group{Name: group, Subscriptions: map[string]snapshot.Settings{}}
		if g != nil {
			clone := *g
			after = &clone
			after.Subscriptions = maps.Clone(g.Subscriptions)
		}
		for topic, set := range subs {
			if _, has := after.Subscriptions[topic]; !has {
				after.Subscriptions[topic] = set
			}
		}
		if g == nil {
			return tx.InsertGroup(ctx, after)
		}
		return tx.UpdateGroup(ctx, after, 0)
	})
	if err != nil {
		return nil, stored(err, fault.GroupNotFound, "group", group)
	}
	s.audit(ctx, auth.Who{}, "group subscribe", group, before, after)
	return s.current(), nil
}

// compare tells whether the group has all these subscriptions; it fails where one differs from what is stated.
func compare(g *snapshot.Group, group string, subs map[string]snapshot.Settings) (known bool, err error) {
	if g == nil {
		return false, nil
	}
	known = true
	for _, topic := range slices.Sorted(maps.Keys(subs)) {
		have, ok := g.Subscriptions[topic]
		if !ok {
			known = false
			continue
		}
		if what := difference(have.WithDefaults(), subs[topic]); what != "" {
			return false, fault.New(fault.SubscriptionConflict, "group %q has other settings for topic %q: %s; leave them out to take the group's, or change the group's with `sluice group set`", group, topic, what)
		}
	}
	return known, nil
}

// difference names the first stated setting that is not the group's.
func difference(have, stated snapshot.Settings) string {
	say := func(what string, have, stated any) string { return fmt.Sprintf("%s is %v, not %v", what, have, stated) }
	switch {
	case stated.Order != 0 && stated.Order != have.Order:
		return say("order", orderName(have.Order), orderName(stated.Order))
	case stated.Start != "" && stated.Start != have.Start:
		return say("start", have.Start, stated.Start)
	case stated.MaxAttempts != 0 && stated.MaxAttempts != have.MaxAttempts:
		return say("max_attempts", have.MaxAttempts, stated.MaxAttempts)
	case stated.BackoffMin != 0 && stated.BackoffMin != have.BackoffMin:
		return say("backoff_min", have.BackoffMin, stated.BackoffMin)
	case stated.BackoffMax != 0 && stated.BackoffMax != have.BackoffMax:
		return say("backoff_max", have.BackoffMax, stated.BackoffMax)
	case stated.Drain != 0 && stated.Drain != have.Drain:
		return say("drain", have.Drain, stated.Drain)
	case stated.Takeover != "" && stated.Takeover != have.Takeover:
		return say("takeover", have.Takeover, stated.Takeover)
	case stated.Run != 0 && stated.Run != have.Run:
		return say("run", have.Run, stated.Run)
	}
	return ""
}

func orderName(o snapshot.Order) string {
	names := []string{"unstated", "none", "key", "partition"}
	if o < 0 || int(o) >= len(names) {
		return fmt.Sprint(int(o))
	}
	return names[o]
}

// groupTopicsTimeout bounds the work on one cluster for a new group.
const groupTopicsTimeout = 20 * time.Second

// makeGroupTopics makes the retry and dead-letter topics of a group, or widens
// them, on every cluster that its topics live on.
func (s *Service) makeGroupTopics(ctx context.Context, group string, subs map[string]snapshot.Settings) error {
	snap := s.current()
	origins := map[string][]mq.Topic{} // by cluster
	add := func(topic string) {
		if t := snap.Topics[topic]; t != nil {
			for _, h := range t.Homes {
				origins[h.Cluster] = append(origins[h.Cluster], h.Topic)
			}
		}
	}
	for topic := range subs {
		add(topic)
	}
	if g := snap.Groups[group]; g != nil {
		for topic := range g.Subscriptions {
			add(topic)
		}
	}
	for _, cluster := range slices.Sorted(maps.Keys(origins)) {
		if err := s.makeTopicsOn(ctx, cluster, origins[cluster], group); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) makeTopicsOn(ctx context.Context, cluster string, origins []mq.Topic, group string) error {
	wanted := []mq.Topic{mq.RetryTopic(group), mq.DeadLetterTopic(group)}
	ctx, cancel := context.WithTimeout(ctx, groupTopicsTimeout)
	defer cancel()
	d, err := s.deps.Clusters.Driver(cluster)
	if err != nil {
		return err
	}
	caps, err := d.Caps(ctx)
	if err != nil {
		return brokers(err, cluster, "preparing the group's topics")
	}
	// RocketMQ has retry and dead-letter topics of its own.
	if !caps.CreateTopics || d.Kind() == mq.RocketMQ {
		return nil
	}
	if !caps.Headers {
		// A broker without headers cannot keep where a parked copy came from, so the engine does not park there. A dead
		// letter keeps its key and body all the same: without the topic it could never leave its lane.
		wanted = []mq.Topic{mq.DeadLetterTopic(group)}
	}
	slices.Sort(origins)
	details, err := d.Admin().Topics(ctx, slices.Compact(origins)...)
	if err != nil {
		return brokers(err, cluster, "preparing the group's topics")
	}
	spec := mq.TopicSpec{}
	for _, t := range details {
		spec.Partitions = max(spec.Partitions, len(t.Partitions))
		spec.Replicas = max(spec.Replicas, replicasOf(t.Partitions))
	}
	for _, name := range wanted {
		spec.Name = name
		if err := makeTopic(ctx, d.Admin(), spec); err != nil {
			return brokers(err, cluster, "making topic "+string(name))
		}
	}
	return nil
}

// makeTopic makes a topic, or widens the one there is.
func makeTopic(ctx context.Context, admin mq.Admin, spec mq.TopicSpec) error {
	err := admin.CreateTopic(ctx, spec)
	if !errors.Is(err, mq.Exists) {
		return err
	}
	have, err := admin.Topics(ctx, spec.Name)
	if err != nil {
		return err
	}
	if len(have) == 1 && len(have[0].Partitions) < spec.Partitions {
		return admin.AddPartitions(ctx, spec.Name, spec.Partitions)
	}
	return nil
}

func replicasOf(ps []mq.Partition) int {
	n := 0
	for i := range ps {
		n = max(n, len(ps[i].Replicas))
	}
	return n
}
