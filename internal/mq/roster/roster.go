// Package roster shares a consumer group's partitions among the members of one
// process, for drivers whose backend has no group protocol of its own.
//
// A Roster is pure: no goroutines, no clock; its owner guards it with a lock
// and wakes the members after each change. It hands partitions over
// cooperatively: one that moves is revoked from its owner first and given on
// only when that owner is done with it, left, or let its time run out, so that
// a partition never has two owners. What stays is not touched.
package roster

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Member names a membership inside its roster; the zero value is nobody.
type Member int64

// Roster is the state of one group. Make it with New.
type Roster struct {
	epoch   int64 // of the last assignment handed out, over all members
	last    Member
	members map[Member]*member
	parts   map[mq.PartitionID]*part
}

type member struct {
	topics   map[mq.Topic]bool
	patience time.Duration // between Next and Done
	epoch    int64         // of the last assignment that it was told; 0: none yet
	lost     []mq.PartitionID
}

type part struct {
	owner  Member // who may commit now
	since  int64  // the epoch that told the owner; 0: not told yet
	target Member // who should have it
	// revoked is the epoch that told the owner to give it up, 0: it was not told; deadline is when it is taken away.
	revoked  int64
	deadline time.Time
}

// New makes an empty roster whose epochs begin above floor.
func New(floor int64) *Roster {
	return &Roster{epoch: floor, members: make(map[Member]*member), parts: make(map[mq.PartitionID]*part)}
}

// Join adds a member that wants the topics and takes at most patience from a revocation to Done.
func (r *Roster) Join(topics []mq.Topic, patience time.Duration) Member {
	r.last++
	m := &member{topics: make(map[mq.Topic]bool, len(topics)), patience: patience}
	for _, t := range topics {
		m.topics[t] = true
	}
	r.members[r.last] = m
	r.balance()
	return r.last
}

// Leave removes a member; what it owned goes to the others at once.
func (r *Roster) Leave(m Member) {
	delete(r.members, m)
	for _, p := range r.parts {
		if p.owner == m {
			p.free()
		}
	}
	r.balance()
}

// Empty tells whether the group has no members.
func (r *Roster) Empty() bool { return len(r.members) == 0 }

// SetPartitions says which partitions a topic has now. Owners of vanished ones are told that they are lost.
func (r *Roster) SetPartitions(topic mq.Topic, ids []mq.PartitionID) {
	now := make(map[mq.PartitionID]bool, len(ids))
	for _, id := range ids {
		now[id] = true
		if r.parts[id] == nil {
			r.parts[id] = &part{}
		}
	}
	for id, p := range r.parts {
		if id.Topic == topic && !now[id] {
			r.lose(id, p)
			delete(r.parts, id)
		}
	}
	r.balance()
}

// Next gives the member its next change, if there is one. The first one comes even when it owns nothing.
func (r *Roster) Next(m Member, now time.Time) (mq.Assignment, bool) {
	me := r.members[m]
	if me == nil {
		return mq.Assignment{}, false
	}
	a := mq.Assignment{Epoch: r.epoch + 1, Lost: me.lost}
	for id, p := range r.parts {
		if p.owner != m {
			continue
		}
		a.Owned = append(a.Owned, id)
		switch {
		case p.since == 0:
			p.since = a.Epoch
			a.Added = append(a.Added, id)
		case p.target != m && p.revoked == 0:
			p.revoked, p.deadline = a.Epoch, now.Add(me.patience)
			a.Revoked = append(a.Revoked, id)
		}
	}
	if me.epoch != 0 && len(a.Added)+len(a.Revoked)+len(a.Lost) == 0 {
		return mq.Assignment{}, false
	}
	r.epoch, me.epoch, me.lost = a.Epoch, a.Epoch, nil
	for _, ids := range [][]mq.PartitionID{a.Owned, a.Added, a.Revoked, a.Lost} {
		slices.SortFunc(ids, compare)
	}
	return a, true
}

// Done ends the member's ownership of what was revoked up to that epoch.
func (r *Roster) Done(m Member, epoch int64) {
	for _, p := range r.parts {
		if p.owner == m && p.revoked != 0 && p.revoked <= epoch {
			p.free()
		}
	}
	r.balance()
}

// Expire takes revoked partitions away from members that did not say Done in time, and tells whether any were.
func (r *Roster) Expire(now time.Time) bool {
	changed := false
	for id, p := range r.parts {
		if p.revoked != 0 && !now.Before(p.deadline) {
			r.lose(id, p)
			changed = true
		}
	}
	if changed {
		r.balance()
	}
	return changed
}

// Deadline is when Expire has something to do next; false: never, as things stand.
func (r *Roster) Deadline() (time.Time, bool) {
	var first time.Time
	for _, p := range r.parts {
		if p.revoked != 0 && (first.IsZero() || p.deadline.Before(first)) {
			first = p.deadline
		}
	}
	return first, !first.IsZero()
}

// Owns tells whether the member owns the partition and did so in that epoch too, without a break between.
func (r *Roster) Owns(m Member, id mq.PartitionID, epoch int64) bool {
	me, p := r.members[m], r.parts[id]
	return me != nil && p != nil && p.owner == m && p.since != 0 && p.since <= epoch && epoch <= me.epoch
}

// Holds tells whether the member owns the partition now.
func (r *Roster) Holds(m Member, id mq.PartitionID) bool {
	p := r.parts[id]
	return p != nil && p.owner == m && p.since != 0
}

// Owned lists what the member was told that it owns, sorted.
func (r *Roster) Owned(m Member) []mq.PartitionID {
	var ids []mq.PartitionID
	for id := range r.parts {
		if r.Holds(m, id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, compare)
	return ids
}

// free makes the partition nobody's.
func (p *part) free() {
	p.owner, p.since, p.revoked, p.deadline = 0, 0, 0, time.Time{}
}

// lose takes the partition from its owner, who is told if it had been told that it owned it.
func (r *Roster) lose(id mq.PartitionID, p *part) {
	if me := r.members[p.owner]; me != nil && p.since != 0 {
		me.lost = append(me.lost, id)
	}
	p.free()
}

// compare orders partitions by topic, broker and index.
func compare(a, b mq.PartitionID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.Index, b.Index))
}

// Epoch is that of the last assignment handed out.
func (r *Roster) Epoch() int64 { return r.epoch }
