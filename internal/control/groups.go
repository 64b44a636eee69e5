package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/peer"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// GroupInfo is a group as it is shown. Lists leave all but Group and Native empty.
type GroupInfo struct {
	Group     *snapshot.Group
	State     string
	Protocol  string
	Members   []mq.GroupMember
	Positions []Position
	Lag       int64
	Lanes     []peer.LaneStatus
	Clients   int
	// Native: only the brokers know it.
	Native bool
}

// Position is where a group stands in a partition; Committed -1: nowhere yet.
type Position struct {
	Topic, Cluster, Partition string
	Committed, End, Lag       int64
}

// ListGroups lists groups by name, from memory; with native also those that only the brokers know.
func (s *Service) ListGroups(_ context.Context, native bool, prefix string, size int, token string) (infos []*GroupInfo, next string, err error) {
	groups := s.current().Groups
	names := slices.Collect(maps.Keys(groups))
	if native {
		for name := range s.probes.groups() {
			if groups[name] == nil {
				names = append(names, name)
			}
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) })
	slices.Sort(names)
	if names, next, err = page(names, size, token); err != nil {
		return nil, "", err
	}
	for _, name := range names {
		info := &GroupInfo{Group: groups[name]}
		if info.Group == nil {
			info.Group, info.Native = &snapshot.Group{Name: name}, true
		}
		infos = append(infos, info)
	}
	return infos, next, nil
}

// place is a physical topic that a group reads.
type place struct {
	topic string // logical; "" for a native group's
	home  snapshot.Home
}

// places lists what a group reads, by cluster.
func (s *Service) places(g *snapshot.Group) map[string][]place {
	byCluster := map[string][]place{}
	snap := s.current()
	for _, topic := range slices.Sorted(maps.Keys(g.Subscriptions)) {
		if t := snap.Topics[topic]; t != nil {
			for _, h := range t.Homes {
				byCluster[h.Cluster] = append(byCluster[h.Cluster], place{topic, h})
			}
		}
	}
	return byCluster
}

// DescribeGroup asks the group's clusters and the nodes that serve it.
func (s *Service) DescribeGroup(ctx context.Context, name string) (*GroupInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	info := &GroupInfo{Group: s.current().Groups[name]}
	var byCluster map[string][]place
	if info.Group != nil {
		byCluster = s.places(info.Group)
	} else {
		clusters := s.probes.groups()[name]
		if len(clusters) == 0 {
			return nil, stored(store.ErrNotFound, fault.GroupNotFound, "group", name)
		}
		info.Group, info.Native = &snapshot.Group{Name: name}, true
		byCluster = map[string][]place{}
		for _, c := range clusters {
			byCluster[c] = nil
		}
	}
	for _, cluster := range slices.Sorted(maps.Keys(byCluster)) {
		if err := s.describeOn(ctx, info, cluster, byCluster[cluster]); err != nil {
			return nil, err
		}
	}
	for _, p := range info.Positions {
		info.Lag += p.Lag
	}
	s.collectLanes(ctx, info)
	return info, nil
}

func (s *Service) describeOn(ctx context.Context, info *GroupInfo, cluster string, places []place) error {
	d, err := s.deps.Clusters.Driver(cluster)
	if err != nil {
		return err
	}
	detail, err := d.Admin().DescribeGroup(ctx, info.Group.Name)
	switch {
	case errors.Is(err, mq.NotFound), errors.Is(err, mq.Unsupported):
	case err != nil:
		return brokers(err, cluster, "describing group "+info.Group.Name)
	default:
		info.State, info.Protocol = detail.State, detail.Protocol
		info.Members = append(info.Members, detail.Members...)
	}
	positions, err := s.positions(ctx, d, info.Group.Name, cluster, places)
	info.Positions = append(info.Positions, positions...)
	return err
}

// positions reads where a group stands; without places in all that it has committed.
func (s *Service) positions(ctx context.Context, d mq.Driver, group, cluster string, places []place) ([]Position, error) {
	doing := "reading positions of group " + group
	committed, err := d.Admin().GroupOffsets(ctx, group)
	if err != nil && !errors.Is(err, mq.NotFound) {
		return nil, brokers(err, cluster, doing)
	}
	logical := map[mq.Topic]string{}
	var ids []mq.PartitionID
	for _, p := range places {
		ps, err := partitions(ctx, d, cluster, p.home.Topic, "")
		if err != nil {
			return nil, err
		}
		logical[p.home.Topic] = p.topic
		ids = append(ids, ps...)
	}
	if places == nil {
		for id := range committed {
			logical[id.Topic] = string(id.Topic)
			ids = append(ids, id)
		}
		sortIDs(ids)
	}
	ends, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Latest})
	if err != nil {
		return nil, brokers(err, cluster, doing)
	}
	starts, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Earliest})
	if err != nil {
		return nil, brokers(err, cluster, doing)
	}
	list := make([]Position, 0, len(ids))
	for _, id := range ids {
		p := Position{Topic: logical[id.Topic], Cluster: cluster, Partition: id.String(), Committed: -1, End: ends[id], Lag: ends[id] - starts[id]}
		if c, ok := committed[id]; ok {
			p.Committed, p.Lag = c.Offset, max(0, ends[id]-max(c.Offset, starts[id]))
		}
		list = append(list, p)
	}
	return list, nil
}

func sortIDs(ids []mq.PartitionID) {
	slices.SortFunc(ids, func(a, b mq.PartitionID) int {
		if c := strings.Compare(string(a.Topic), string(b.Topic)); c != 0 {
			return c
		}
		if c := strings.Compare(a.Broker, b.Broker); c != 0 {
			return c
		}
		return int(a.Index) - int(b.Index)
	})
}

// statusTimeout bounds the question to one node: a group is described without those that hang.
const statusTimeout = 2 * time.Second

func (s *Service) collectLanes(ctx context.Context, info *GroupInfo) {
	if s.deps.Peers == nil || info.Native {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var mu sync.Mutex
	var asks sync.WaitGroup
	for _, n := range s.current().Nodes {
		if !n.Alive || !n.HasRole("consumer") {
			continue
		}
		asks.Go(func() {
			st, err := s.deps.Peers.GroupStatus(ctx, n.Name, info.Group.Name)
			if err != nil {
				s.log.WarnContext(ctx, "node did not tell its lanes", "node", n.Name, "group", info.Group.Name, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			info.Lanes = append(info.Lanes, st.Lanes...)
			info.Clients += st.Clients
		})
	}
	asks.Wait()
	slices.SortFunc(info.Lanes, func(a, b peer.LaneStatus) int {
		return strings.Compare(a.Cluster+"\x00"+a.Topic+"\x00"+a.Partition, b.Cluster+"\x00"+b.Topic+"\x00"+b.Partition)
	})
}

// GroupChange is what SetGroup changes. Settings under "" change every
// subscription; zero fields stay.
type GroupChange struct {
	Subscriptions map[string]snapshot.Settings
	Paused        *bool
	Nodes         *int
}

// SetGroup changes a group while it runs; nobody loses a partition by it.
func (s *Service) SetGroup(ctx context.Context, who auth.Who, name string, base uint64, ch GroupChange, dry bool) (*GroupInfo, error) {
	const maxNodes = 1000
	if ch.Nodes != nil && (*ch.Nodes < 0 || *ch.Nodes > maxNodes) {
		return nil, fault.New(fault.InvalidArgument, "group %q: %d nodes; choose 1 to %d, or 0 for the default", name, *ch.Nodes, maxNodes)
	}
	var before *snapshot.Group
	st, err := s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error {
		g, err := tx.Group(ctx, name)
		if err != nil {
			return err
		}
		before = g
		next, err := regroup(g, ch)
		if err != nil {
			return err
		}
		return tx.UpdateGroup(ctx, next, base)
	})
	if err != nil {
		return nil, stored(err, fault.GroupNotFound, "group", name)
	}
	after := st.Groups[name]
	if !dry {
		s.audit(ctx, who, "group set", name, before, after)
	}
	return &GroupInfo{Group: after}, nil
}

func regroup(g *snapshot.Group, ch GroupChange) (*snapshot.Group, error) {
	next := *g
	next.Subscriptions = maps.Clone(g.Subscriptions)
	for topic, by := range ch.Subscriptions {
		if _, has := g.Subscriptions[topic]; topic != "" && !has {
			return nil, fault.New(fault.InvalidArgument, "group %q does not subscribe to topic %q; subscribe once, or check the name", g.Name, topic)
		}
		for t, have := range next.Subscriptions {
			if topic != "" && t != topic {
				continue
			}
			next.Subscriptions[t] = overlay(have, by)
			if err := checkSettings(t, next.Subscriptions[t]); err != nil {
				return nil, err
			}
		}
	}
	if ch.Paused != nil {
		next.Paused = *ch.Paused
	}
	if ch.Nodes != nil {
		next.Nodes = *ch.Nodes
	}
	return &next, nil
}

// overlay puts what is stated in by over have.
func overlay(have, by snapshot.Settings) snapshot.Settings {
	if by.Order != 0 {
		have.Order = by.Order
	}
	if by.Start != "" {
		have.Start = by.Start
	}
	if by.MaxAttempts != 0 {
		have.MaxAttempts = by.MaxAttempts
	}
	if by.BackoffMin != 0 {
		have.BackoffMin = by.BackoffMin
	}
	if by.BackoffMax != 0 {
		have.BackoffMax = by.BackoffMax
	}
	if by.Drain != 0 {
		have.Drain = by.Drain
	}
	if by.Takeover != "" {
		have.Takeover = by.Takeover
	}
	if by.Run != 0 {
		have.Run = by.Run
	}
	return have
}

// DeleteGroup forgets a group and its positions. Its dead letters stay where they are.
func (s *Service) DeleteGroup(ctx context.Context, who auth.Who, name string, dry bool) error {
	g := s.current().Groups[name]
	if g == nil {
		return stored(store.ErrNotFound, fault.GroupNotFound, "group", name)
	}
	byCluster := s.places(g)
	clusters := slices.Sorted(maps.Keys(byCluster))
	if err := s.refuseNatives(ctx, name, clusters); err != nil {
		return err
	}
	if dry {
		return nil
	}
	return s.suspended(ctx, name, clusters, func(ctx context.Context) error {
		for _, cluster := range clusters {
			d, err := s.deps.Clusters.Driver(cluster)
			if err != nil {
				return err
			}
			err = d.Admin().DeleteGroup(ctx, name)
			if err != nil && !errors.Is(err, mq.NotFound) && !errors.Is(err, mq.Unsupported) {
				return brokers(err, cluster, "deleting group "+name)
			}
		}
		_, err := s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error { return tx.DeleteGroup(ctx, name) })
		if err == nil {
			s.audit(ctx, who, "group delete", name, g, nil)
		}
		return stored(err, fault.GroupNotFound, "group", name)
	})
}
