package control

import (
	"context"
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

// ResetRequest moves a group's positions: To (earliest, latest, a time, an
// offset) or by Shift messages; of one Topic and Partition, or of all.
type ResetRequest struct {
	Group, Topic, Partition string
	To                      string
	Shift                   *int64
}

// ResetGroup moves positions: the group's nodes leave the brokers' group, the
// positions are stored, the nodes join again. A dry run shows what would be.
// Native members are not ours to stop: they make it fail.
func (s *Service) ResetGroup(ctx context.Context, who auth.Who, r ResetRequest, dry bool) (before, after []Position, err error) {
	g := s.current().Groups[r.Group]
	if g == nil {
		return nil, nil, stored(store.ErrNotFound, fault.GroupNotFound, "group", r.Group)
	}
	if (r.To == "") == (r.Shift == nil) {
		return nil, nil, fault.New(fault.InvalidArgument, "say either where to (earliest, latest, a time, an offset) or by how many messages to shift")
	}
	byCluster, err := s.resetPlaces(g, r)
	if err != nil {
		return nil, nil, err
	}
	clusters := slices.Sorted(maps.Keys(byCluster))
	if err := s.refuseNatives(ctx, r.Group, clusters); err != nil {
		return nil, nil, err
	}
	move := func(ctx context.Context, store bool) error {
		before, after = nil, nil
		for _, cluster := range clusters {
			b, a, err := s.resetOn(ctx, cluster, byCluster[cluster], r, store)
			if err != nil {
				return err
			}
			before, after = append(before, b...), append(after, a...)
		}
		return nil
	}
	if dry {
		return before, after, move(ctx, false)
	}
	// All of it once without storing: what cannot be resolved must not stop the group.
	if err := move(ctx, false); err != nil {
		return nil, nil, err
	}
	err = s.suspended(ctx, r.Group, clusters, func(ctx context.Context) error { return move(ctx, true) })
	if err != nil {
		return nil, nil, err
	}
	s.audit(ctx, who, "group reset", r.Group, before, after)
	return before, after, nil
}

func (s *Service) resetPlaces(g *snapshot.Group, r ResetRequest) (map[string][]place, error) {
	byCluster := s.places(g)
	if r.Topic == "" {
		if r.Partition != "" {
			return nil, fault.New(fault.InvalidArgument, "partition %q of which topic? say --topic", r.Partition)
		}
		return byCluster, nil
	}
	if _, has := g.Subscriptions[r.Topic]; !has {
		return nil, fault.New(fault.InvalidArgument, "group %q does not subscribe to topic %q; it reads %s", g.Name, r.Topic, firstFew(slices.Sorted(maps.Keys(g.Subscriptions))))
	}
	for cluster, ps := range byCluster {
		ps = slices.DeleteFunc(ps, func(p place) bool { return p.topic != r.Topic })
		byCluster[cluster] = ps
		if len(ps) == 0 {
			delete(byCluster, cluster)
		}
	}
	return byCluster, nil
}

// resetOn resolves, and with store moves, the positions on one cluster.
func (s *Service) resetOn(ctx context.Context, cluster string, places []place, r ResetRequest, store bool) (before, after []Position, err error) {
	d, err := s.deps.Clusters.Driver(cluster)
	if err != nil {
		return nil, nil, err
	}
	positions, err := s.positions(ctx, d, r.Group, cluster, places)
	if err != nil {
		return nil, nil, err
	}
	commits := map[mq.PartitionID]mq.Commit{}
	for _, p := range places {
		ids, err := partitions(ctx, d, cluster, p.home.Topic, r.Partition)
		if err != nil {
			return nil, nil, err
		}
		targets, err := s.targets(ctx, d, cluster, ids, r, positionsOf(positions, p.topic))
		if err != nil {
			return nil, nil, err
		}
		for _, id := range ids {
			i := slices.IndexFunc(positions, func(q Position) bool { return q.Topic == p.topic && q.Partition == id.String() })
			was := positions[i]
			now := was
			now.Committed, now.Lag = targets[id], was.End-targets[id]
			before, after = append(before, was), append(after, now)
			commits[id] = mq.Commit{Offset: targets[id]}
		}
	}
	if store {
		if err := d.Admin().SetGroupOffsets(ctx, r.Group, commits); err != nil {
			return nil, nil, brokers(err, cluster, "storing positions of group "+r.Group)
		}
	}
	return before, after, nil
}

func positionsOf(ps []Position, topic string) map[string]Position {
	m := map[string]Position{}
	for _, p := range ps {
		if p.Topic == topic {
			m[p.Partition] = p
		}
	}
	return m
}

// targets resolves where each partition's position goes, inside what the log holds.
func (s *Service) targets(ctx context.Context, d mq.Driver, cluster string, ids []mq.PartitionID, r ResetRequest, now map[string]Position) (map[mq.PartitionID]int64, error) {
	starts, err := d.Reader().Offsets(ctx, ids, mq.Start{At: mq.Earliest})
	if err != nil {
		return nil, brokers(err, cluster, "reading offsets")
	}
	raw := map[mq.PartitionID]int64{}
	offset, notOffset := strconv.ParseInt(r.To, 10, 64)
	switch {
	case r.Shift != nil:
		for _, id := range ids {
			at := now[id.String()].Committed
			if at < 0 {
				at = starts[id]
			}
			raw[id] = at + *r.Shift
		}
	case notOffset == nil:
		for _, id := range ids {
			raw[id] = offset
		}
	default:
		at, err := parseStart(r.To)
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "%.60q is none of earliest, latest, an offset, or a time like 2026-11-25T12:00:00Z", r.To)
		}
		if raw, err = d.Reader().Offsets(ctx, ids, at); err != nil {
			return nil, brokers(err, cluster, "reading offsets")
		}
	}
	for _, id := range ids {
		raw[id] = min(max(raw[id], starts[id]), now[id.String()].End)
	}
	return raw, nil
}

// refuseNatives fails where members that are not our nodes are in the group.
func (s *Service) refuseNatives(ctx context.Context, group string, clusters []string) error {
	for _, cluster := range clusters {
		members, err := s.brokerMembers(ctx, group, cluster)
		if err != nil {
			return err
		}
		var natives []string
		for _, m := range members {
			if !s.ours(m) {
				natives = append(natives, fmt.Sprintf("%s (%s at %s)", m.ID, m.Client, m.Host))
			}
		}
		if len(natives) > 0 {
			return fault.New(fault.Conflict, "group %q has native members on cluster %q: %s; stop them first, the brokers take no positions from others while they live", group, cluster, firstFew(natives))
		}
	}
	return nil
}

func (s *Service) brokerMembers(ctx context.Context, group, cluster string) ([]mq.GroupMember, error) {
	d, err := s.deps.Clusters.Driver(cluster)
	if err != nil {
		return nil, err
	}
	detail, err := d.Admin().DescribeGroup(ctx, group)
	if errors.Is(err, mq.NotFound) || errors.Is(err, mq.Unsupported) {
		return nil, nil
	}
	return detail.Members, brokers(err, cluster, "describing group "+group)
}

// ours tells whether a member is a node of Sluice: nodes join as "sluice-" and their name.
func (s *Service) ours(m mq.GroupMember) bool {
	name, marked := strings.CutPrefix(m.Client, "sluice-")
	return marked && s.current().Nodes[name] != nil
}

// suspended runs fn while the group's nodes are out of the brokers' group. The
// group goes on afterwards, whatever fn says, unless fn deleted it.
func (s *Service) suspended(ctx context.Context, group string, clusters []string, fn func(context.Context) error) (err error) {
	if err := s.suspend(ctx, group, true); err != nil {
		return err
	}
	defer func() {
		// The caller may be gone; the group must go on all the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminTimeout)
		defer cancel()
		if s.current().Groups[group] == nil {
			return
		}
		if e := s.suspend(ctx, group, false); e != nil {
			err = errors.Join(err, fmt.Errorf("group %q stays suspended: %w", group, e))
		}
	}()
	if err := s.awaitEmpty(ctx, group, clusters); err != nil {
		return err
	}
	return fn(ctx)
}

func (s *Service) suspend(ctx context.Context, group string, on bool) error {
	_, err := s.write(ctx, false, func(ctx context.Context, tx *store.Tx) error {
		g, err := tx.Group(ctx, group)
		if err != nil {
			return err
		}
		if on && g.Suspended {
			return fault.New(fault.Conflict, "group %q is being reset or deleted by somebody else; wait until that ended", group)
		}
		g.Suspended = on
		return tx.UpdateGroup(ctx, g, 0)
	})
	return stored(err, fault.GroupNotFound, "group", group)
}

// pollEmpty is the time between two looks at a group that should become empty.
const pollEmpty = 200 * time.Millisecond

func (s *Service) awaitEmpty(ctx context.Context, group string, clusters []string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ResetTimeout)
	defer cancel()
	tick := time.NewTicker(pollEmpty)
	defer tick.Stop()
	for _, cluster := range clusters {
		for {
			members, err := s.brokerMembers(ctx, group, cluster)
			if err == nil && len(members) == 0 {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				var names []string
				for _, m := range members {
					names = append(names, m.Client)
				}
				return fault.Wrap(errors.Join(err, ctx.Err()), fault.Unavailable, "group %q still has members on cluster %q after %v: %s; nothing was changed", group, cluster, s.cfg.ResetTimeout, firstFew(names))
			}
		}
	}
	return nil
}
