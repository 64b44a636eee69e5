package consume

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// defaultNodes is how many nodes serve a group that says nothing else.
const defaultNodes = 3

// consumerRole is the role of nodes that serve groups.
const consumerRole = "consumer"

// serving lists the nodes that serve a group, best first: the first k of the live consumer nodes in rendezvous-hash
// order, k = min(nodes, partitions, what the group says). Every node computes the same list from the same snapshot. A
// group with a topic on an embedded store is served by the node that holds it.
func serving(s *snapshot.Snapshot, group string) []*snapshot.Node {
	var nodes []*snapshot.Node
	for _, n := range s.Nodes {
		if n.HasRole(consumerRole) && n.Alive && !n.Draining {
			nodes = append(nodes, n)
		}
	}
	g := s.Groups[group]
	if holder := holderOf(s, g); holder != "" {
		return slices.DeleteFunc(nodes, func(n *snapshot.Node) bool { return n.Name != holder })
	}
	score := func(n *snapshot.Node) uint64 { return xxhash.Sum64String(group + "\x00" + n.Name) }
	slices.SortFunc(nodes, func(a, b *snapshot.Node) int {
		return cmp.Or(cmp.Compare(score(b), score(a)), cmp.Compare(a.Name, b.Name))
	})
	most := defaultNodes
	if g != nil && g.Nodes > 0 {
		most = g.Nodes
	}
	if p := partitions(s, g); p > 0 {
		most = min(most, p)
	}
	return nodes[:min(most, len(nodes))]
}

// partitions counts those of a group's topics, 0 where one is not known.
func partitions(s *snapshot.Snapshot, g *snapshot.Group) int {
	total := 0
	for _, h := range homes(s, g) {
		if h.Partitions == 0 {
			return 0
		}
		total += h.Partitions
	}
	return total
}

// holderOf is the node that holds the embedded store of a group's topics, "" where there is none.
func holderOf(s *snapshot.Snapshot, g *snapshot.Group) string {
	for _, h := range homes(s, g) {
		if c := s.Clusters[h.Cluster]; c != nil && c.Kind == mq.Embedded && c.Node != "" {
			return c.Node
		}
	}
	return ""
}

func homes(s *snapshot.Snapshot, g *snapshot.Group) []snapshot.Home {
	if g == nil {
		return nil
	}
	var out []snapshot.Home
	for topic := range g.Subscriptions {
		if t := s.Topics[topic]; t != nil {
			out = append(out, t.Homes...)
		}
	}
	return out
}

// serves tells whether this node is among the serving ones. A node that the snapshot does not know yet serves where
// nobody else could: a first start, before it was registered.
func (e *Engine) serves(s *snapshot.Snapshot, nodes []*snapshot.Node) bool {
	if len(nodes) == 0 && s.Nodes[e.node] == nil {
		return true
	}
	return slices.ContainsFunc(nodes, func(n *snapshot.Node) bool { return n.Name == e.node })
}

// sameNodes compares what clients are told of nodes.
func sameNodes(a, b []*snapshot.Node) bool {
	return slices.EqualFunc(a, b, func(a, b *snapshot.Node) bool {
		return a.Name == b.Name && a.GRPC == b.GRPC && a.HTTP == b.HTTP
	})
}
