package control

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// TopicSpec is a topic to make. Zero values: the only cluster there is, 4 partitions, the cluster's replicas and retention.
type TopicSpec struct {
	Name       string
	Cluster    string
	Partitions int
	Replicas   int
	Retention  time.Duration
	Config     map[string]string
	Order      string
	Owner      string
}

// TopicInfo is a topic as it is shown. Lists leave Config, Partitions and Durability empty.
type TopicInfo struct {
	Topic          *snapshot.Topic
	PartitionCount int
	Replicas       int
	Config         map[string]string
	Partitions     []PartitionInfo
	Durability     string
}

// PartitionInfo is one partition with the range of its offsets.
type PartitionInfo struct {
	mq.Partition
	Start, End int64
}

// adminTimeout bounds an operator's call to a cluster.
const adminTimeout = 30 * time.Second

// onlyCluster resolves an empty cluster name.
func (s *Service) onlyCluster(name string) (string, error) {
	clusters := s.current().Clusters
	if name == "" {
		if len(clusters) != 1 {
			return "", fault.New(fault.InvalidArgument, "there are %d clusters (%s); say which one with --cluster", len(clusters), firstFew(slices.Sorted(maps.Keys(clusters))))
		}
		for name = range clusters {
		}
	}
	if clusters[name] == nil {
		return "", stored(store.ErrNotFound, fault.ClusterNotFound, "cluster", name)
	}
	return name, nil
}

// CreateTopic makes a physical topic and its logical one. A physical topic that
// exists already is refused: adopt it.
func (s *Service) CreateTopic(ctx context.Context, who auth.Who, spec TopicSpec, dry bool) (*TopicInfo, error) {
	if err := s.checkTopicSpec(&spec); err != nil {
		return nil, err
	}
	if s.current().Topics[spec.Name] != nil {
		return nil, stored(store.ErrExists, fault.TopicNotFound, "topic", spec.Name)
	}
	d, err := s.deps.Clusters.Driver(spec.Cluster)
	if err != nil {
		return nil, err
	}
	physical := mq.PhysicalName(spec.Name, "")
	t := &snapshot.Topic{
		Name: spec.Name, Epoch: 1, Order: cmp.Or(spec.Order, "none"), Block: defaultBlock, Owner: spec.Owner,
		Homes: []snapshot.Home{{Cluster: spec.Cluster, Topic: physical, Partitions: spec.Partitions}},
	}
	info := &TopicInfo{Topic: t, PartitionCount: spec.Partitions, Replicas: spec.Replicas, Config: spec.Config}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if !dry {
		config := maps.Clone(spec.Config)
		if spec.Retention > 0 {
			if config == nil {
				config = map[string]string{}
			}
			config["retention.ms"] = strconv.FormatInt(spec.Retention.Milliseconds(), 10)
		}
		err := d.Admin().CreateTopic(ctx, mq.TopicSpec{Name: physical, Partitions: spec.Partitions, Replicas: spec.Replicas, Config: config})
		if errors.Is(err, mq.Exists) {
			return nil, fault.Wrap(err, fault.AlreadyExists, "cluster %q has a topic %q already; make it known with `sluice topic adopt`, or choose another name", spec.Cluster, physical)
		}
		if err != nil {
			return nil, brokers(err, spec.Cluster, "creating topic "+string(physical))
		}
	}
	st, err := s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error { return tx.InsertTopic(ctx, t) })
	if err != nil {
		return nil, stored(err, fault.TopicNotFound, "topic", spec.Name)
	}
	info.Topic = st.Topics[spec.Name]
	if !dry {
		s.audit(ctx, who, "topic create", spec.Name, nil, info.Topic)
	}
	return info, nil
}

func (s *Service) checkTopicSpec(spec *TopicSpec) error {
	if err := checkName("topic", spec.Name); err != nil {
		return err
	}
	if err := checkOrder(spec.Name, spec.Order); err != nil {
		return err
	}
	if spec.Owner != "" {
		if err := checkName("owner", spec.Owner); err != nil {
			return err
		}
	}
	const maxPartitions, maxReplicas = 10_000, 100
	if spec.Partitions == 0 {
		spec.Partitions = autoPartitions
	}
	if spec.Partitions < 0 || spec.Partitions > maxPartitions || spec.Replicas < 0 || spec.Replicas > maxReplicas || spec.Retention < 0 {
		return fault.New(fault.InvalidArgument, "topic %q: %d partitions, %d replicas, retention %v; choose 1 to %d partitions, up to %d replicas and a positive retention", spec.Name, spec.Partitions, spec.Replicas, spec.Retention, maxPartitions, maxReplicas)
	}
	name, err := s.onlyCluster(spec.Cluster)
	spec.Cluster = name
	return err
}

// AdoptTopics makes physical topics of a cluster known: those named, or with all
// every one that is neither internal, nor known, nor a group's retry or
// dead-letter topic. as is the logical name of a single topic, where it differs.
func (s *Service) AdoptTopics(ctx context.Context, who auth.Who, cluster string, names []string, all bool, as string, dry bool) ([]*TopicInfo, error) {
	cluster, err := s.onlyCluster(cluster)
	if err != nil {
		return nil, err
	}
	if all == (len(names) > 0) {
		return nil, fault.New(fault.InvalidArgument, "name the topics to adopt, or say --all; not both")
	}
	if as != "" && len(names) != 1 {
		return nil, fault.New(fault.InvalidArgument, "--as gives a name to one topic, not to %d", len(names))
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	found, err := s.adoptable(ctx, cluster, names, all)
	if err != nil {
		return nil, err
	}
	infos := make([]*TopicInfo, 0, len(found))
	for _, p := range found {
		name := cmp.Or(as, string(p.Name))
		if err := checkName("topic", name); err != nil {
			return nil, err
		}
		infos = append(infos, &TopicInfo{
			PartitionCount: len(p.Partitions), Replicas: replicasOf(p.Partitions),
			Topic: &snapshot.Topic{
				Name: name, Epoch: 1, Order: "none", Block: defaultBlock,
				Homes: []snapshot.Home{{Cluster: cluster, Topic: p.Name, Partitions: len(p.Partitions)}},
			},
		})
	}
	st, err := s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error {
		for _, info := range infos {
			t := info.Topic
			if known, err := tx.TopicAt(ctx, cluster, t.Homes[0].Topic); err != nil {
				return err
			} else if known != "" {
				return fault.New(fault.AlreadyExists, "topic %q of cluster %q is known already, as %q", t.Homes[0].Topic, cluster, known)
			}
			if err := tx.InsertTopic(ctx, t); err != nil {
				return stored(err, fault.TopicNotFound, "topic", t.Name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		info.Topic = st.Topics[info.Topic.Name]
		if !dry {
			s.audit(ctx, who, "topic adopt", info.Topic.Name, nil, info.Topic)
		}
	}
	return infos, nil
}

func (s *Service) adoptable(ctx context.Context, cluster string, names []string, all bool) ([]mq.TopicDetail, error) {
	d, err := s.deps.Clusters.Driver(cluster)
	if err != nil {
		return nil, err
	}
	physical := make([]mq.Topic, len(names))
	for i, n := range names {
		physical[i] = mq.Topic(n)
	}
	details, err := d.Admin().Topics(ctx, physical...)
	if err != nil {
		return nil, brokers(err, cluster, "looking for topics")
	}
	if !all {
		for _, n := range physical {
			if !slices.ContainsFunc(details, func(t mq.TopicDetail) bool { return t.Name == n }) {
				return nil, fault.New(fault.TopicNotFound, "cluster %q has no topic %q; check the name with the cluster's own tools", cluster, n)
			}
		}
		return details, nil
	}
	skip := map[mq.Topic]bool{}
	snap := s.current()
	for _, t := range snap.Topics {
		for _, h := range t.Homes {
			if h.Cluster == cluster {
				skip[h.Topic] = true
			}
		}
	}
	for g := range snap.Groups {
		skip[mq.RetryTopic(g)], skip[mq.DeadLetterTopic(g)] = true, true
	}
	return slices.DeleteFunc(details, func(t mq.TopicDetail) bool {
		return t.Internal || skip[t.Name] || strings.HasPrefix(string(t.Name), "__")
	}), nil
}

// Paging.
const (
	defaultPage = 100
	maxPage     = 1000
)

// page cuts sorted names after the one that a token stands for.
func page(names []string, size int, token string) (cut []string, next string, err error) {
	if size <= 0 {
		size = defaultPage
	}
	size = min(size, maxPage)
	if token != "" {
		last, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return nil, "", fault.New(fault.InvalidArgument, "page token %.60q is not one of ours; begin with an empty one", token)
		}
		i, found := slices.BinarySearch(names, string(last))
		if found {
			i++
		}
		names = names[i:]
	}
	if len(names) > size {
		names = names[:size]
		next = base64.RawURLEncoding.EncodeToString([]byte(names[size-1]))
	}
	return names, next, nil
}

// ListTopics lists logical topics by name, from memory.
func (s *Service) ListTopics(_ context.Context, cluster, prefix string, size int, token string) (infos []*TopicInfo, next string, err error) {
	topics := s.current().Topics
	var names []string
	for name, t := range topics {
		on := cluster == "" || slices.ContainsFunc(t.Homes, func(h snapshot.Home) bool { return h.Cluster == cluster })
		if on && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names, next, err = page(names, size, token)
	if err != nil {
		return nil, "", err
	}
	for _, name := range names {
		t := topics[name]
		info := &TopicInfo{Topic: t}
		if len(t.Homes) > 0 {
			h := t.Homes[0]
			seen := s.probes.shape(h.Cluster, h.Topic)
			info.PartitionCount, info.Replicas = cmp.Or(seen.partitions, h.Partitions), seen.replicas
		}
		infos = append(infos, info)
	}
	return infos, next, nil
}

// home finds a topic and the driver of its home.
func (s *Service) home(name string) (*snapshot.Topic, snapshot.Home, mq.Driver, error) {
	t := s.current().Topics[name]
	if t == nil || len(t.Homes) == 0 {
		return nil, snapshot.Home{}, nil, stored(store.ErrNotFound, fault.TopicNotFound, "topic", name)
	}
	d, err := s.deps.Clusters.Driver(t.Homes[0].Cluster)
	return t, t.Homes[0], d, err
}

// DescribeTopic asks the topic's cluster.
func (s *Service) DescribeTopic(ctx context.Context, name string) (*TopicInfo, error) {
	t, h, d, err := s.home(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	doing := "describing topic " + string(h.Topic)
	detail, err := one(ctx, d, h)
	if err != nil {
		return nil, err
	}
	info := &TopicInfo{Topic: t, PartitionCount: len(detail.Partitions), Replicas: replicasOf(detail.Partitions), Config: detail.Config}
	ids := idsOf(detail.Partitions)
	starts, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Earliest})
	if err != nil {
		return nil, brokers(err, h.Cluster, doing)
	}
	ends, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Latest})
	if err != nil {
		return nil, brokers(err, h.Cluster, doing)
	}
	for _, p := range detail.Partitions {
		info.Partitions = append(info.Partitions, PartitionInfo{Partition: p, Start: starts[p.ID], End: ends[p.ID]})
	}
	caps, err := d.Caps(ctx)
	if err != nil {
		return nil, brokers(err, h.Cluster, doing)
	}
	info.Durability = durability(caps, detail, info.Replicas)
	return info, nil
}

// one describes a physical topic.
func one(ctx context.Context, d mq.Driver, h snapshot.Home) (mq.TopicDetail, error) {
	details, err := d.Admin().Topics(ctx, h.Topic)
	if err != nil {
		return mq.TopicDetail{}, brokers(err, h.Cluster, "describing topic "+string(h.Topic))
	}
	if len(details) != 1 {
		return mq.TopicDetail{}, fault.New(fault.TopicNotFound, "topic %q is registered, but cluster %q does not have it any more; delete the registration, or make it again there", h.Topic, h.Cluster)
	}
	return details[0], nil
}

func idsOf(ps []mq.Partition) []mq.PartitionID {
	ids := make([]mq.PartitionID, len(ps))
	for i := range ps {
		ids[i] = ps[i].ID
	}
	return ids
}

// durability says what an acknowledgement is worth.
func durability(c mq.Caps, t mq.TopicDetail, replicas int) string {
	switch {
	case c.SyncedBeforeAck:
		return "synced before the acknowledgement, on one machine"
	case replicas <= 1:
		return "one replica: survives a process crash, not a power cut or the loss of its broker"
	case t.MinInSync <= 1:
		return "min.insync.replicas is " + strconv.Itoa(t.MinInSync) + ": while replicas are away, an acknowledgement is worth one broker"
	default:
		return "replicated"
	}
}

// TopicChange is what SetTopic changes; zero and nil: unchanged.
type TopicChange struct {
	Config                  map[string]string
	Partitions              int
	Owner, Order            string
	RateMessages, RateBytes *int64
}

// SetTopic changes a topic, in the cluster and in the store.
func (s *Service) SetTopic(ctx context.Context, who auth.Who, name string, base uint64, ch TopicChange, dry bool) (*TopicInfo, error) {
	old, h, d, err := s.home(name)
	if err != nil {
		return nil, err
	}
	next, err := changed(old, ch)
	if err != nil {
		return nil, err
	}
	if base == 0 {
		base = old.Version
	}
	update := func(ctx context.Context, tx *store.Tx) error { return tx.UpdateTopic(ctx, next, base) }
	// First without effect, so that a conflict is found before the cluster is touched.
	st, err := s.write(ctx, true, update)
	if err != nil {
		return nil, stored(err, fault.TopicNotFound, "topic", name)
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if !dry {
		if err := s.changePhysical(ctx, d, h, ch); err != nil {
			return nil, err
		}
		if st, err = s.write(ctx, false, update); err != nil {
			return nil, stored(err, fault.TopicNotFound, "topic", name)
		}
		s.audit(ctx, who, "topic set", name, old, st.Topics[name])
		if len(ch.Config) > 0 {
			s.audit(ctx, who, "topic config", name, nil, ch.Config)
		}
	}
	t := st.Topics[name]
	return &TopicInfo{Topic: t, PartitionCount: t.Homes[0].Partitions, Config: ch.Config}, nil
}

func changed(old *snapshot.Topic, ch TopicChange) (*snapshot.Topic, error) {
	next := *old
	next.Homes = slices.Clone(old.Homes)
	if err := checkOrder(old.Name, ch.Order); err != nil {
		return nil, err
	}
	if ch.Owner != "" {
		if err := checkName("owner", ch.Owner); err != nil {
			return nil, err
		}
	}
	next.Order = cmp.Or(ch.Order, old.Order)
	next.Owner = cmp.Or(ch.Owner, old.Owner)
	for _, rate := range []struct {
		to *int64
		by *int64
	}{{&next.RateMessages, ch.RateMessages}, {&next.RateBytes, ch.RateBytes}} {
		if rate.by == nil {
			continue
		}
		if *rate.by < 0 {
			return nil, fault.New(fault.InvalidArgument, "topic %q: a rate of %d; choose 0 for no limit, or a positive number", old.Name, *rate.by)
		}
		*rate.to = *rate.by
	}
	if ch.Partitions != 0 {
		have := old.Homes[0].Partitions
		if ch.Partitions < have {
			return nil, fault.New(fault.InvalidArgument, "topic %q has %d partitions; their number can only grow", old.Name, have)
		}
		if next.Order != "none" && ch.Partitions != have {
			return nil, fault.New(fault.InvalidArgument, "topic %q is ordered (%s): more partitions would send keys elsewhere and break their order", old.Name, next.Order)
		}
		next.Homes[0].Partitions = ch.Partitions
	}
	return &next, nil
}

func (s *Service) changePhysical(ctx context.Context, d mq.Driver, h snapshot.Home, ch TopicChange) error {
	if len(ch.Config) > 0 {
		if err := d.Admin().SetTopicConfig(ctx, h.Topic, ch.Config); err != nil {
			return brokers(err, h.Cluster, "changing the configuration of topic "+string(h.Topic))
		}
	}
	if ch.Partitions == 0 {
		return nil
	}
	detail, err := one(ctx, d, h)
	if err != nil {
		return err
	}
	if len(detail.Partitions) < ch.Partitions {
		if err := d.Admin().AddPartitions(ctx, h.Topic, ch.Partitions); err != nil {
			return brokers(err, h.Cluster, "adding partitions to topic "+string(h.Topic))
		}
	}
	return nil
}

// DeleteTopic forgets a topic that no group subscribes to; with physical its data too.
func (s *Service) DeleteTopic(ctx context.Context, who auth.Who, name string, physical, dry bool) error {
	old, h, d, err := s.home(name)
	if physical && err != nil || old == nil {
		return err
	}
	_, err = s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error { return tx.DeleteTopic(ctx, name) })
	if errors.Is(err, store.ErrInUse) {
		return fault.New(fault.Conflict, "topic %q has subscribers (%s); delete the groups first", name, firstFew(s.subscribers(name)))
	}
	if err != nil {
		return stored(err, fault.TopicNotFound, "topic", name)
	}
	if dry {
		return nil
	}
	s.audit(ctx, who, "topic delete", name, old, fmt.Sprintf("physical: %v", physical))
	if !physical {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if err := d.Admin().DeleteTopic(ctx, h.Topic); err != nil && !errors.Is(err, mq.NotFound) {
		return brokers(err, h.Cluster, "topic "+strconv.Quote(name)+" is forgotten, but deleting "+string(h.Topic)+" on the cluster")
	}
	return nil
}

func (s *Service) subscribers(topic string) []string {
	var names []string
	for name, g := range s.current().Groups {
		if _, has := g.Subscriptions[topic]; has {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
