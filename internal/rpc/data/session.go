package data

import (
	"cmp"
	"context"
	"slices"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Nodes lists the live nodes that take new work, by name; with a group those that serve it, best first.
func (s *Service) Nodes(_ context.Context, req *sluicev1.NodesRequest) (*sluicev1.NodesResponse, error) {
	snap := s.deps.Snapshots.Current()
	if snap == nil {
		return nil, fault.New(fault.Unavailable, "the node has no snapshot yet; retry in a moment")
	}
	if req.GetGroup() != "" {
		c, err := s.consumer()
		if err != nil {
			return nil, err
		}
		return &sluicev1.NodesResponse{Nodes: encodeNodes(c.GroupNodes(req.GetGroup())), SnapshotVersion: snap.Version}, nil
	}
	live := make([]*snapshot.Node, 0, len(snap.Nodes))
	for _, n := range snap.Nodes {
		if n.Alive && !n.Draining {
			live = append(live, n)
		}
	}
	slices.SortFunc(live, func(a, b *snapshot.Node) int { return cmp.Compare(a.Name, b.Name) })
	return &sluicev1.NodesResponse{Nodes: encodeNodes(live), SnapshotVersion: snap.Version}, nil
}
