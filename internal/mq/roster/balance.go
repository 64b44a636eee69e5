package roster

import (
	"maps"
	"slices"

	"github.com/sluice-mq/sluice/internal/mq"
)

// balance chooses who should have each partition, moving as few as it can, and gives out those that are free.
func (r *Roster) balance() {
	ids := slices.SortedFunc(maps.Keys(r.parts), compare)
	order := slices.Sorted(maps.Keys(r.members)) // by joining
	load := make(map[Member]int, len(order))

	wants := func(m Member, t mq.Topic) bool { return r.members[m] != nil && r.members[m].topics[t] }
	lightest := func(t mq.Topic) Member {
		var best Member
		for _, m := range order {
			if wants(m, t) && (best == 0 || load[m] < load[best]) {
				best = m
			}
		}
		return best
	}

	for _, id := range ids {
		p := r.parts[id]
		if !wants(p.target, id.Topic) {
			p.target = 0
			continue
		}
		load[p.target]++
	}
	for _, id := range ids {
		if p := r.parts[id]; p.target == 0 {
			if p.target = lightest(id.Topic); p.target != 0 {
				load[p.target]++
			}
		}
	}
	if len(order) > 1 {
		r.level(ids, load, lightest)
	}
	for _, p := range r.parts {
		// An owner that was never told of a partition has nothing to drain.
		if p.owner == 0 || (p.owner != p.target && p.since == 0) {
			p.free()
			p.owner = p.target
		}
	}
}

// level moves partitions from members with more to members with fewer. Each move lowers the sum of the squared loads,
// so it ends.
func (r *Roster) level(ids []mq.PartitionID, load map[Member]int, lightest func(mq.Topic) Member) {
	for moved := true; moved; {
		moved = false
		for _, id := range ids {
			p := r.parts[id]
			if p.target == 0 {
				continue
			}
			if m := lightest(id.Topic); load[p.target] > load[m]+1 {
				load[p.target]--
				load[m]++
				p.target = m
				moved = true
			}
		}
	}
}
